"""Values without meaning that configs, texts of choices and flags once accepted, and what is said.

Each is refused before anything is built, by key, value and range. New ones are added here.
"""

import pytest

from benchmarks.proofs import fuzz_config
from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.errors import ConfigError

SCENES = "configs/scenes_dit_flow.py"
JOINT = "configs/transfusion_scenes.py"
VALUES = [
  ("seed", "-1", "seed = -1 is not in [0, 2^32)"),
  ("seed", "4294967296", "seed = 4294967296 is not in [0, 2^32)"),
  ("train.lr", "1e999", "train.lr = inf is not in [0, inf)"),
  ("train.lr", "-1", "train.lr = -1.0 is not in [0, inf)"),
  ("train.lr", "1e300", "train.lr = 1e+300, inf in float32, is not in [0, inf)"),
  ("train.vector_lr", "-1e-3", "train.vector_lr = -0.001 is not in"),
  ("train.clip", "0", "train.clip = 0.0 is not in (0, inf)"),
  ("train.clip", "-1", "train.clip = -1.0 is not in (0, inf)"),
  ("train.ema", "1.5", "train.ema = 1.5 is not in [0, 1)"),
  ("train.ema", "0.999999999", "train.ema = 0.999999999, 1 in float32, is not in [0, 1)"),
  ("train.ema", "-0.1", "train.ema = -0.1 is not in"),
  ("train.caption_dropout.text", "-1", "train.caption_dropout.text = -1.0 is not in [0, 1]"),
  ("train.caption_dropout.text", "1.01", "train.caption_dropout.text = 1.01 is not in"),
  ("train.steps", "0", "train.steps = 0 is not in [1, 2^31)"),
  ("train.batch", "-8", "train.batch = -8 is not in"),
  ("train.batch", "1" + 12 * "0", "train.batch = 1000000000000 is not in [1, 2^24]"),
  ("log.every", "-5", "log.every = -5 is not in [0, 2^31)"),
  ("eval.every", "-5", "eval.every = -5 is not in"),
  ("eval.rows", "0", "eval.rows = 0 is not in"),
  ("checkpoint.every", "-5", "checkpoint.every = -5 is not in"),
  ("checkpoint.keep", "0", "checkpoint.keep = 0 is not in [1, 2^31)"),
  ("checkpoint.frozen", "hash", "checkpoint.frozen = 'hash' is not one of start, copy"),
  ("sampling.every", "-5", "sampling.every = -5 is not in"),
  ("sampling.steps", "-1", "sampling.steps = -1 is not in [1, 10000]"),
  ("sampling.cfg", "1e999", "sampling.cfg = inf is not in [0, inf)"),
  ("sampling.cfg", "-1", "sampling.cfg = -1.0 is not in [0, inf)"),
  ("sampling.batch", "0", "sampling.batch = 0 is not in [1, 2^24]"),
  ("sampling.prompts", "()", "sampling.prompts = () has length 0, which is not in [1, 2^16]"),
  ("sampling.prompts", "(1,)", "an item of sampling.prompts = 1 is an integer; write text"),
  ("data.image_size", "(0, 0)", "an item of data.image_size = 0 is not in [1, 2^16]"),
  ("data.image_size", "(32, -32)", "an item of data.image_size = -32 is not in"),
  ("data.image_size", "(32.0, 32)", "an item of data.image_size = 32.0 is a number; write an int"),
  ("data.workers", "-1", "data.workers = -1 is not in [0, 1024]"),
  ("data.workers", "100000", "data.workers = 100000 is not in"),
  ("text.length", "-1", "text.length = -1 is not in [1, 2^20]"),
  ("text.vocab", "0", "text.vocab = 0 is not in"),
  ("mesh.data", "0", "mesh.data = 0 is not in [1, 2^20] or -1"),
  ("mesh.fsdp", "-2", "mesh.fsdp = -2 is not in"),
  ("mesh.rules", "(1,)", "an item of mesh.rules = 1 is an integer; write text"),
  ("process.t_sampling", "(2,)", "an item of process.t_sampling = 2 is an integer; write text"),
  ("score.level", "eazy", "score.level = 'eazy' is not one of"),
  ("model.depth", "0", "model.depth = 0 is not in [1, 10000]"),
  ("model.patch", "0", "model.patch = 0 is not in"),
  ("model.heads", "-4", "model.heads = -4 is not in"),
  ("model.times", "0", "model.times = 0 is not in"),
]
TEXTS = [
  ("text.towers.text", "transformer(width=8, depth=0, heads=4)", "depth = 0 is not in [1, 10000]"),
  ("text.towers.text", "transformer(width=1.5, depth=1, heads=4)", "width = 1.5 is a number"),
  ("text.towers.text", "transformer(width=128, depth=1, heads='x')", "heads = 'x' is text"),
  ("train.optimizer", "adamw(b2=1.5)", "b2 = 1.5 is not in [0, 1)"),
  ("train.optimizer", "muon(b2=1.0)", "b2 = 1.0 is not in [0, 1)"),
  ("train.optimizer", "adamw(weight_decay=-1)", "weight_decay = -1.0 is not in [0, inf)"),
  ("train.schedule", "cosine(warmup=-1)", "warmup = -1 is not in [0, 2^31)"),
  ("train.schedule", "cosine(warmup=2200)", "warmup = 2200 leaves nothing of train.steps = 2200"),
  ("process.shift", "static(factor=0)", "factor = 0.0 is not in [0.01, 100]"),
  ("process.shift", "static(factor=-3.0)", "factor = -3.0 is not in"),
  ("process.shift", "dynamic(base_tokens=256, max_tokens=256)", "base_tokens = max_tokens = 256"),
  ("process.shift", "dynamic(base_tokens=4095, max_tokens=4096)", "too near each other"),
  ("process.timesteps", "beta(a=0.0)", "a = 0.0 is not in [0.05, 100]"),
  ("process.timesteps", "logit_normal(std=0.0)", "std = 0.0 is not in (0, 20]"),
  ("process.timesteps", "logit_normal(mean=1e999)", "mean = inf is not in [-20, 20]"),
  ("process.weighting", "min_snr(gamma=-5)", "gamma = -5.0 is not in (0, 1e6]"),
  ("process.weighting", "p2(k=0.0)", "k = 0.0 is not in [0.001, 1000]"),
  ("process.penalty", "huber(delta=0.0)", "delta = 0.0 is not in [1e-4, 100]"),
  ("process.noise", "gaussian(offset=-0.1)", "offset = -0.1 is not in [0, 10]"),
  ("process.kind", "vp(beta_min=-1.0)", "beta_min = -1.0 is not in (0, 20]"),
  ("process.kind", "edm(sigma_max=0.0)", "sigma_max = 0.0 is not in [0.01, 1e6]"),
  ("process.kind", "ddpm_sigmoid(start=3.0)", "sigma / alpha must grow with t"),
  ("process.kind", "ddpm_linear(beta_start=0.9, beta_end=0.99, between='angle')", "must grow with"),
  ("process.prediction", "edm(sigma_data=0.0)", "sigma_data = 0.0 is not in [0.01, 100]"),
  ("train.objective", "consistency(steps=0)", "steps = 0 is not in [1, 2^31)"),
  ("train.objective", "consistency(steps=9, first=20, last=10)", "needs first <= last"),
  ("sampling.solver", "dpmpp(order=9)", "order = 9 is not in [1, 3]"),
  ("sampling.solver", "dpmpp(order=0)", "order = 0 is not in [1, 3]"),
  ("sampling.solver", "unipc(order=2.0)", "order = 2.0 is a number; write an integer"),
  ("sampling.solver", "ddim(eta=1.5)", "eta = 1.5 is not in [0, 1]"),
  ("sampling.solver", "edm(churn=-1.0)", "churn = -1.0 is not in [0, inf)"),
  ("sampling.solver", "ddpm_learned", "ddpm_learned needs a learned variance: use ddpm"),
  ("sampling.grid", "beta(a=0.0)", "a = 0.0 is not in [0.05, 100]"),
  ("sampling.grid", "karras(rho=0.0)", "rho = 0.0 is not in [0.1, 100]"),
  ("sampling.grid", "karras(top='high')", "top = 'high' is text; write a number"),
  ("sampling.grid", "exponential(bottom=0.0)", "bottom = 0.0 is not in (0, 1e6]"),
  ("sampling.grid", "shifted(factor=0)", "factor = 0.0 is not in [0.01, 100]"),
  ("sampling.grid", "shifted(terminal=1.0)", "terminal = 1.0 is not in (0, 1)"),
  ("sampling.guidance", "apg(momentum=1.0)", "momentum = 1.0 is not in (-1, 1)"),
  ("sampling.guidance", "cfg(rescale=1e999)", "rescale = inf is not in [0, 1]"),
  ("sampling.guidance", "cfg_norm(patch=0)", "patch = 0 is not in [1, 2^31)"),
  ("sampling.guidance", "cfg_norm(patch=5)", "patch = 5 does not divide 32 x 32"),
  ("sampling.guidance", "pag(layers=())", "layers = () has length 0"),
  ("sampling.guidance", "pag(layers=(-1,))", "an item of"),
  ("sampling.guidance", "compose(weights=(1.0, 1e999))", "= inf is not in (-inf, inf)"),
  ("sampling.guidance", "dual(image_scale=-1.0)", "image_scale = -1.0 is not in [0, inf)"),
]  # fmt: skip
OF_JOINT = [
  ("rows.length", "0", "rows.length = 0 is not in [1, 2^20]"),
  ("rows.images", "0", "rows.images = 0 is not in"),
  ("rows.drop", "1.5", "rows.drop = 1.5 is not in [0, 1]"),
  ("rows.max_t", "-0.1", "rows.max_t = -0.1 is not in [0, 1]"),
  ("train.balance", "-1", "train.balance = -1.0 is not in [0, inf)"),
  ("model.kv_heads", "-1", "model.kv_heads = -1 is not in [0, 2^31)"),
  ("model.norm_eps", "0.0", "model.norm_eps = 0.0 is not in (0, 0.1]"),
  ("sampling.words", "sample(temperature=-1.0)", "temperature = -1.0 is not in [0, 100]"),
  ("sampling.words", "sample(top_p=0.0)", "top_p = 0.0 is not in (0, 1]"),
  ("sampling.words", "sample(most=0)", "most = 0 is not in [1, 2^16]"),
]
CASES = [(SCENES, *case) for case in VALUES + TEXTS] + [(JOINT, *case) for case in OF_JOINT]


@pytest.mark.parametrize(
  "path, key, text, words", CASES, ids=[f"{key}={text}"[:60] for _, key, text, _ in CASES]
)
def test_a_value_without_meaning_is_refused(path, key, text, words):
  with pytest.raises(ConfigError) as error:
    quick = fuzz_config.QUICK if path == SCENES else {}
    fuzz_config.build_light(load_config(path, quick | {key: text}))
  assert words in str(error.value) and key in str(error.value), error.value


@pytest.mark.parametrize("key, text, words", VALUES[:40], ids=[case[0] for case in VALUES[:40]])
def test_keys_are_refused_by_load_config_itself(key, text, words):
  with pytest.raises(ConfigError):
    load_config(SCENES, {key: text})


FLAGS = [
  ("sample --workdir=w --prompt=x --num=0", "--num=0 is not in [1, 2^20]"),
  ("sample --workdir=w --prompt=x --num=two", "--num='two' is text; write an integer"),
  ("sample --workdir=w --prompt=x --seed=-1", "--seed=-1 is not in [0, 2^32)"),
  ("sample --workdir=w --prompt=x --guidance.weight=inf", "--guidance.weight=inf is not in"),
  ("sample --workdir=w --prompt=x --seed=4294967295 --num=2", "seeds end at 4294967295"),
  ("eval --workdir=w --per-cell=0", "--per-cell=0 is not in [1, 2^20]"),
  ("eval --workdir=w --seed=4294967295", "--seed=4294967295 is not in [0, 4e9]"),
  ("score --workdir=w --likelihood --steps=0", "--steps=0 is not in [1, 10000]"),
  ("score --workdir=w --likelihood --smallest=nan", "--smallest=nan is not in (0, 0.5)"),
  ("caption --workdir=w --seed=-1 x.png", "--seed=-1 is not in [0, 2^32)"),
  ("chat --workdir=w --seed=-1", "--seed=-1 is not in"),
  ("data show d --count=0", "--count=0 is not in"),
  ("data show d --columns=0", "--columns=0 is not in"),
  ("data verify d --workers=0", "--workers=0 is not in [1, 1024]"),
  ("data build --from=scenes --to=d --size=0", "--size=0 is not in [1, 2^16]"),
  ("data build --from=scenes --to=d --count=-1", "--count=-1 is not in [0, 2^31)"),
  ("data build --from=scenes --to=d --vocab=0", "--vocab=0 is not in [1, 2^31)"),
  ("data build --from=folder --path=p --to=d --val-fraction=1.5", "--val-fraction=1.5 is not in"),
]  # fmt: skip


@pytest.mark.parametrize("line, words", FLAGS, ids=[line for line, _ in FLAGS])
def test_a_flag_without_meaning_is_refused(line, words, capsys):
  assert main(line.split()) == 2
  said = capsys.readouterr().err
  assert words in said and said.startswith(("ConfigError: ", "PromptError: "))


BROKEN = {
  "a syntax error": ("def get_config(:\n", "line 1: SyntaxError"),
  "an import from the old place": (
    "from configs import no_such_config\n", "ModuleNotFoundError|ImportError",
  ),
  "an error": ("def get_config():\n  return {}['x']\n", "line 2: KeyError"),
  "no config": ("def get_config():\n  return {}\n", "returns a dict, which is no ConfigDict"),
}  # fmt: skip


@pytest.mark.parametrize("text, words", BROKEN.values(), ids=[*BROKEN])
def test_a_config_that_fails_is_named_with_its_line(tmp_path, text, words):
  (tmp_path / "mine.py").write_text(text)
  with pytest.raises(ConfigError, match=rf"mine.py.*({words})"):
    load_config(tmp_path / "mine.py")


@pytest.mark.parametrize("seed, count", [(0, 500)])
def test_random_values_are_built_or_refused_by_their_key(seed, count):
  found, failures = fuzz_config.fuzz(count, seed)
  assert not failures, "\n".join(failures)
  assert min(found["built"], found["refused"]) > count / 10
