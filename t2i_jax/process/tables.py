"""Tables of the discrete processes: alpha_bar_n of the N = 1000 training steps, n = 0..N-1.

A table is float64 and exact. From float32 betas it is the published one: every operation is then
rounded as in the reference code of SD and DDPM, for parity with models trained with that code. The
two differ by at most 1e-6 of the value, 4e-5 where the SNR is rescaled to end at zero.
"""

import numpy as np

STEPS = 1000  # N [2006.11239 sec. 4]


def linear_betas(
  beta_start: float = 1e-4, beta_end: float = 0.02, published: bool = False
) -> np.ndarray:
  """beta_n, float64 [N]; `published`: float32. Source: [2006.11239 sec. 4]."""
  return (linspace32 if published else np.linspace)(beta_start, beta_end, STEPS)


def scaled_linear_betas(
  beta_start: float = 0.00085, beta_end: float = 0.012, published: bool = False
) -> np.ndarray:
  """beta_n whose square roots are evenly spaced, [N] as above. Source: [2112.10752, its code]."""
  return (linspace32 if published else np.linspace)(beta_start**0.5, beta_end**0.5, STEPS) ** 2


def cosine_betas(s: float = 0.008, max_beta: float = 0.999, published: bool = False) -> np.ndarray:
  """beta_n whose alpha_bar follows a squared cosine, [N] as above. Source: [2102.09672 eq. 17]."""
  f = np.cos((np.arange(STEPS + 1) / STEPS + s) / (1 + s) * np.pi / 2) ** 2
  betas = np.minimum(1 - f[1:] / f[:-1], max_beta)
  return betas.astype(np.float32) if published else betas


def sigmoid_alpha_bar(start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> np.ndarray:
  """alpha_bar_n as a sigmoid that reaches 0 at n = N - 1, float64 [N]. [2301.10972 alg. 1]"""
  t = (np.arange(STEPS) + 1) / STEPS
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  low, high = sigmoid(start / tau), sigmoid(end / tau)
  with np.errstate(invalid="ignore"):  # of start = end, which Process refuses
    return (high - sigmoid((t * (end - start) + start) / tau)) / (high - low)


def alpha_bar_of(betas: np.ndarray) -> np.ndarray:
  """alpha_bar_n = prod_{m <= n} (1 - beta_m), of the dtype of betas [N]. [2006.11239 eq. 4]"""
  if betas.dtype == np.float32:
    # The reference accumulates the product in float64 and rounds each entry.
    return np.cumprod((1 - betas).astype(np.float64)).astype(np.float32)
  return np.exp(np.cumsum(np.log1p(-betas)))


def linspace32(start: float, end: float, n: int) -> np.ndarray:
  """n float32 values from start to end; each half is counted from its end and rounded once."""
  step = np.float32((np.float32(end) - np.float32(start)) / np.float32(n - 1))
  i, stride = np.arange(n), np.float64(step)  # a fused multiply-add is exact inside
  up, down = np.float32(start) + stride * i, np.float32(end) - stride * i[::-1]
  return np.where(i < n // 2, up, down).astype(np.float32)


def rescale_zero_terminal_snr(alpha_bar: np.ndarray) -> np.ndarray:
  """The table with its last sqrt(alpha_bar) shifted to 0, its first kept. [2305.08891 alg. 1]"""
  root = np.sqrt(alpha_bar)
  moved = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
  if alpha_bar.dtype == np.float32:  # the published algorithm stores betas
    return alpha_bar_of(1 - np.concatenate([moved[:1], moved[1:] / moved[:-1]]))
  return moved


def shifted_snr(alpha_bar: np.ndarray, factor: float) -> np.ndarray:
  """The table whose sigma / alpha is `factor` times the given one's.

  factor = resolution / reference resolution keeps the SNR of a region of the image
  [2301.11093 eq. 4]. The same shift for flow matching, on t, is timesteps.shift.
  """
  snr = alpha_bar / np.maximum(1 - alpha_bar, 1e-300) / factor**2
  return snr / (1 + snr)
