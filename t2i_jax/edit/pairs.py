"""The compiled sampler of pairs: a source and a target from one noise, in one batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.config import build
from t2i_jax.edit.inversions import with_tokens
from t2i_jax.edit.pair_inversions import PAIR_INVERSIONS, Begin, Images, PairInversion
from t2i_jax.edit.word_maps import Recorded, maps_of, reads, starts
from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Visible
from t2i_jax.models.conditioning import Conditioning
from t2i_jax.models.control import Control, Here, Role, with_role
from t2i_jax.models.edit_control import EDIT, EditRows, prompt_to_prompt
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding, compiler_options
from t2i_jax.process import Prediction
from t2i_jax.sampling import (
  GUIDANCE_OF_PROMPTS,
  Guided,
  guide,
  make_plan,
  remember,
  row_noise,
  sample,
)
from t2i_jax.sampling.guidance import interleave
from t2i_jax.sampling.loop import OnStep
from t2i_jax.systems.beside import kind_of
from t2i_jax.systems.few_step import until
from t2i_jax.systems.inputs import each_condition
from t2i_jax.systems.parts import InTurn, only
from t2i_jax.systems.sampler import Batches, checked_plan, make_sampler
from t2i_jax.systems.stages import negative
from t2i_jax.systems.system import checked, levels

VAE = ("vae",)


class How(NamedTuple):
  """What is compiled of an edit.

  largest   of models.edit_control.prompt_to_prompt;   whole: the same
  inverter  of images, one of pair_inversions; "": none are given
  blends    whether the target is the source outside the region of word 0
  first     step from which it is
  keeps     whether maps of the words are kept
  """

  largest: int = 0
  inverter: str = ""
  blends: bool = False
  first: int = 0
  keeps: bool = False
  whole: bool = False


class Given(NamedTuple):
  """n pairs.

  source, target, null  tokens by encoder, then Conditioning; null: None without guidance
  seeds                 uint32 [n]
  edit                  leaves [n, 2, ...], of the source and the target; step is None
  images                uint8 [n, H, W, 3] to invert, or None
  scale, threshold      of guidance and of blending
  """

  source: Any
  target: Any
  null: Any
  seeds: Any
  edit: EditRows
  images: Any = None
  scale: Any = None
  threshold: Any = None


class Drawn(NamedTuple):
  """before, after: uint8 [n, H, W, 3]; recorded: leaves [n, 2, ...], or None"""

  before: np.ndarray
  after: np.ndarray
  recorded: Recorded | None


class Pairs:
  """Draws pairs with a model's settings of sampling, in batches of config.sampling.batch pairs.

  Raises ConfigError for a model or settings whose rows are not pairs.
  """

  def __init__(self, model: Any, how: How = How()):  # noqa: B008  immutable
    model.need("redraw")
    self.system, self.params, self.how = model.system, model.params, how
    self.c, self.mesh, system = model.config.sampling, model.mesh, model.system
    sampler = make_sampler(self.c, system.process, GUIDANCE_OF_PROMPTS)
    self.solver, self.times, self.method = sampler
    self.record = how.blends or how.keeps
    self._check()
    self.plan, self.steps = checked_plan(self.c, sampler, system), len(self.times.t) - 1
    self.inversion: PairInversion | None = None
    if how.inverter:
      self.inversion = self._inversion(how.inverter)
      self.solver = self.inversion.solver or self.solver
      self.plan = make_plan(self.solver, system.process, self.times)
    self.guided = self.c.cfg != 1
    self.control = prompt_to_prompt(
      system.layers, 1 + self.guided, how.largest, self.record, how.whole
    )
    self.batches = Batches(self.mesh, self.c.batch)
    rows = batch_sharding(self.mesh)
    jit: Any = lambda run, out: jax.jit(
      run, out_shardings=out, compiler_options=compiler_options(self.mesh)
    )
    self._encode = jax.jit(system.encode_text, out_shardings=rows)
    self._encode_image = jit(system.encode, rows)
    self._sample = jit(self._run, rows)
    whole = jax.NamedSharding(self.mesh, jax.P())
    self._decode = jit(lambda params, x0: levels(system.decode(params, x0)), whole)
    self._whole: Any = jax.jit(lambda x: x, out_shardings=whole)

  def _check(self) -> None:
    system, method = self.system, self.method
    if method.perturb or method.worse or method.others:
      raise ConfigError(
        f"sampling.guidance = {self.c.guidance!r}: an edit is guided by the null alone. Use "
        "--guidance=cfg."
      )
    if kind_of(system) or system.controlnets:
      raise ConfigError("this model reads an image besides the prompt: t2i sample edits with it.")
    if self.how.whole and "joint" not in self._sites():
      raise ConfigError(
        "--joint=whole: this model has no joint attention of text and image, but cross-attention, "
        "whose map --cross takes whole. Leave it out."
      )
    if self.record and system.output.learned_variance:
      raise ConfigError(
        "--blend and --maps: this model predicts a variance, which takes the place of what is "
        "recorded. Leave them out."
      )

  def _sites(self) -> set[str]:
    """The kinds of attention in the model."""
    system, found = self.system, set[str]()

    def attention(here: Here, site: str, q, k, v, mask: Visible | None) -> jax.Array:
      found.add(site)
      return here.attend(q, k, v, mask)

    def call(params: Params, x: jax.Array, tokens: Any) -> Any:
      cond = with_role(system.encode_text(params, tokens), Role.COND)
      control = Control(jnp.zeros(system.layers, bool), attention=attention)
      time = jax.tree.map(lambda field: jnp.float32(field[0]), self.times)
      if system.two_times:
        cond = until(cond, time.model_time)
      return system.denoise(params, x, time, cond, control).value

    tokens = {name: encoder.encode([""]) for name, encoder in system.text.items()}
    x = jax.ShapeDtypeStruct((1, *system.x_shape), jnp.float32)
    jax.eval_shape(call, system.abstract, x, tokens)
    return found

  def _inversion(self, inverter: str) -> PairInversion:
    """Raises ConfigError for one that this model or its settings do not lead back by."""
    inversion: PairInversion = build(PAIR_INVERSIONS, inverter, "--inverter")
    inversion.check(self.c, self.method)
    if inversion.solver is None and self.solver.noisy:
      raise ConfigError(
        f"--solver={self.c.solver} adds noise in each step: it does not lead back to an image. Use "
        "--solver=ddim, or --inverter=direct."
      )
    if self.system.two_times:
      raise ConfigError(
        "--image: this model steps from one time to another, and is not inverted. Leave it out."
      )
    return inversion

  def draw(self, given: Given, threshold: float = 0.3) -> Drawn:
    """threshold: of blending. Raises NotFinite."""
    given = given._replace(null=given.null if self.guided else None)
    n, params = len(given.seeds), self.params
    with jax.set_mesh(self.mesh):
      each: Any = list if isinstance(params, InTurn) else iter
      parts = each(self._conditioned(part, threshold) for part in self.batches(given))
      run = lambda part: self._sample(only(params, self.system.sampled), self.plan, part)
      drawn = each(run(part) for part in parts)
      found = [
        (checked(self._decode(only(params, VAE), x0)), jax.device_get(self._whole(recorded)))
        for x0, recorded in drawn
      ]
    pairs = lambda *leaves: np.concatenate(leaves).reshape(-1, 2, *leaves[0].shape[1:])[:n]
    images = pairs(*(images for images, _ in found))
    recorded = jax.tree.map(pairs, *(maps for _, maps in found))
    return Drawn(images[:, 0], images[:, 1], recorded)

  def _conditioned(self, part: Given, threshold: float) -> Given:
    """With the encoders' outputs, images as latents, and what is traced."""
    own, vae = only(self.params, self.system.encoding), only(self.params, VAE)
    of = lambda text: self._encode(own, text)
    return part._replace(
      source=of(part.source),
      target=of(part.target),
      null=None if part.null is None else negative(of(part.null)),
      images=None if part.images is None else self._encode_image(vae, part.images),
      scale=jnp.float32(self.c.cfg),
      threshold=jnp.float32(threshold),
    )

  def _run(self, params: Params, plan: Any, given: Given) -> tuple[jax.Array, Recorded | None]:
    """x0_hat [2 n, h, w, C], a source and its target in turn, and their maps."""
    system, how = self.system, self.how
    keys = jax.vmap(jax.random.key)(given.seeds)
    begin = self._begin(params, plan, given, keys)
    x: Any = jax.tree.map(lambda leaf: interleave(leaf, leaf), begin.x)
    edit = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), given.edit)
    cond: Any = _edited(given.source, given.target, (Role.SOURCE, Role.TARGET), edit)

    def denoise(x_t: jax.Array, time: Any, cond: Conditioning) -> Prediction:
      found = system.denoise(params, x_t, time, cond, self.control)
      if not self.record:
        return found
      maps = maps_of(found.aux, system.parts["backbone"].config, system.x_shape)
      return found._replace(aux=maps if how.keeps else maps._replace(layers=None))

    def cond_at(i: jax.Array, cond: Any, state: Any) -> Any:
      if begin.tokens is not None:
        tokens = jax.tree.map(lambda leaf: interleave(leaf[i], leaf[i]), begin.tokens)
        cond = cond._replace(null=with_tokens(cond.null, tokens))
      now = lambda one: _at_step(one, i)
      if system.two_times:
        now = lambda one: until(_at_step(one, i), plan.to.model_time[i])
      return each_condition(cond, now)

    hooks: dict[str, Any] = {"cond_at": cond_at}
    if self.record:
      x_t, time = jax.tree.leaves(x)[0], jax.tree.map(lambda field: field[0], plan.now)
      # Of as many rows as guidance makes of them.
      more = jax.tree.map(lambda leaf: jnp.repeat(leaf, 1 + self.guided, 0), (x_t, cond))
      first = jax.eval_shape(lambda: denoise(more[0], time, _at_step(more[1], jnp.int32(0)))).aux
      threshold = given.threshold if how.blends else None
      hooks["state"] = starts(first, len(x_t), self.steps, how.keeps)
      hooks["on_step"] = reads(self.steps, threshold, how.first)
    if begin.states is not None:
      hooks["on_step"] = _following(begin.states, hooks.get("on_step"))
    sampled: Any = denoise
    if given.null is not None:
      null = _edited(*begin.nulls, (Role.NULL, Role.NULL), edit)
      cond, sampled = Guided(cond, null), guide(denoise, self.method, given.scale)
      hooks = remember(self.method, x, **hooks)
    noise = row_noise(keys, system.x_shape)
    x, state = sample(
      sampled, self.solver, plan, x, cond, lambda i: interleave(noise(i), noise(i)), **hooks
    )
    x0 = jax.tree.leaves(x)[0]  # of coupled states the first
    if not how.keeps:
      return x0, None
    return x0, (state if given.null is None else state[1]).recorded

  def _begin(self, params: Params, plan: Any, given: Given, keys: jax.Array) -> Begin:
    """Where the pairs begin: at noise of the seeds, or where their images lead."""
    system = self.system
    if self.inversion is None or given.images is None:
      return Begin(system.process.prior(keys, system.x_shape), (given.null, given.null))
    plain = lambda x_t, time, cond: system.denoise(params, x_t, time, cond)
    guided = guide(plain, self.method, given.scale)
    images = Images(
      plain, guided, system.process, plan, self.times, given.images, given.source, given.null,
      given.scale,
    )  # fmt: skip
    return self.inversion.begin(images)


def _following(states: jax.Array, hook: OnStep | None) -> OnStep:
  """A hook of `sample` that puts the source back on its states [S + 1, n, ...], before another."""

  def on_step(i: jax.Array, x: jax.Array, prediction: Prediction, state: Any):
    x = interleave(states[i + 1], x.reshape(-1, 2, *x.shape[1:])[:, 1])
    return (x, state) if hook is None else hook(i, x, prediction, state)

  return on_step


def _edited(
  source: Conditioning, target: Conditioning, roles: tuple[Role, Role], edit: EditRows
) -> Conditioning:
  """The conditions of pairs, a source and its target in turn."""
  pair = [with_role(one, role) for one, role in zip((source, target), roles, strict=True)]
  both: Conditioning = jax.tree.map(interleave, *pair)
  return both._replace(extras=both.extras | {EDIT: edit})


def _at_step(cond: Conditioning, i: jax.Array) -> Conditioning:
  edit: EditRows = cond.extras[EDIT]
  step = jnp.broadcast_to(i, (len(edit.inside),)).astype(jnp.int32)
  return cond._replace(extras=cond.extras | {EDIT: edit._replace(step=step)})
