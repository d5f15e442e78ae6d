# %% [markdown]
# # 01 Denoising diffusion: DDPM and Improved DDPM
#
# At the end of this chapter you can make images like these out of nothing but noise, say how many bits your
# model needs for an image it has never seen, and explain what each term of its loss is for.

# %%
import course_lib.classroom as room

room.show_hero("ddpm")

# %% [markdown]
# **You will** derive DDPM in full (Ho, Jain and Abbeel 2020, arXiv 2006.11239), write the twelve central functions of
# this paper and the next, train it on this machine in a minute, and then follow Nichol and Dhariwal (2021,
# arXiv 2102.09672) as they find out why its likelihood was poor and fix it.
#
# **You need** the chain rule, Bayes' theorem, the density of a normal distribution, and a little PyTorch.
#
# **Time** about four hours with the exercises; running everything takes two to three minutes.

# %% [markdown]
# ## 1 The problem
#
# Here is one image of the little world, sixteen pixels wide, and next to it the same image with more and more
# noise. Going right is easy: anyone can add noise. A *generative* model goes left. If we could undo one small step
# of noise at a time, we could start from pure noise and walk all the way back to an image.
#
# **Predict first:** at which of these would you give up guessing the colour of the object?

# %%
import torch

from course_lib import data
from course_lib.classroom import show_images
from course_lib.world import pixels_to_float

images = pixels_to_float(data.images("test", 16, 16, scale="large")["pixels"])
fixed_noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
levels = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0]
noisy = [(1 - level) ** 0.5 * images[:1] + level**0.5 * fixed_noise for level in levels]
show_images(
    torch.cat(noisy),
    [f"{level:.0%} noise" for level in levels],
    columns=8,
    alt="One image under eight growing amounts of noise; the last is only noise.",
)

# %% [markdown]
# Look for the colour of the object, its outline and the pattern of the floor: which of them goes first? Walking back, they
# return in the opposite order. And at which of these steps are the *bits* spent? See section 8.

# %% [markdown]
# ## 2 The forward process
#
# The forward process adds a little Gaussian noise $T$ times, with variances $\beta_1, \dots, \beta_T$ fixed in advance
# (Eq. 2):
#
# $$q(x_t \mid x_{t-1}) = \mathcal N\!\left(x_t;\ \sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\right)$$
#
# The factor $\sqrt{1-\beta_t}$ shrinks the image just enough that the total variance stays 1 if it was 1.
# Write $\alpha_t = 1-\beta_t$ and $\bar\alpha_t = \alpha_1\alpha_2\cdots\alpha_t$. Two steps in a row are
#
# $$x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{1-\alpha_t}\,\varepsilon_t
#       = \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2} + \underbrace{\sqrt{\alpha_t(1-\alpha_{t-1})}\,\varepsilon_{t-1} + \sqrt{1-\alpha_t}\,\varepsilon_t}_{\text{a sum of independent normals}}$$
#
# Variances of independent normals add: $\alpha_t(1-\alpha_{t-1}) + (1-\alpha_t) = 1-\alpha_t\alpha_{t-1}$. So two steps are one
# step with the product of the two alphas. Repeat this down to $x_0$ (Eq. 4):
#
# $$q(x_t \mid x_0) = \mathcal N\!\left(x_t;\ \sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\right)$$
#
# One jump, whatever $t$. This is what makes training cheap.

# %%
from course_lib.classroom import exercise, explore, slider
from course_lib.diffusion import cosine_betas, linear_betas

T = 1000
betas = linear_betas(T).float()  # from 1e-4 to 0.02
alphas_cumprod = torch.cumprod(1 - betas, dim=0)  # alpha-bar
first, middle, last = alphas_cumprod[[0, T // 2 - 1, T - 1]]
print(f"alpha-bar: first {first:.4f}, middle {middle:.4f}, last {last:.2e}")

# %% [markdown]
# Steps count from 0 in code: `t = 0` is the paper's $t = 1$, and `alphas_cumprod[t]` is the entry that belongs to it.
# `T`, `betas` and `alphas_cumprod` are this notebook's own chain. Inside your functions use only the parameters: the
# checks have other chains too. Results keep the dtype of the inputs, float32 or float64. Where gradients are compared, the
# task says so; here nothing is differentiated.
#
# ### Exercise: jump to step t
#
# Write Eq. 4. `t` holds one step per sample, so each gets its own amount of noise. Samples are images (b c h w) here, and
# points in the plane (b 2) in section 6.
#
# <details><summary>Hint 1: the idea</summary>
# Look up alpha-bar for every sample, give it as many axes of length 1 as <code>x_start</code> has after the first, and remember
# which of its powers is a standard deviation.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>a = alphas_cumprod[t].reshape(-1, *[1] * (x_start.ndim - 1))</code> has shape (b, 1, 1, 1) for images and
# (b, 1) for points.
# </details>


# %% exercise: jump to step t
@exercise("ddpm.q_sample")
def q_sample(x_start, t, noise, alphas_cumprod):
    """Eq. 4: x_t from x_0 in one jump.

    x_start, noise: (b ...); t: (b,); alphas_cumprod: (T,)
    """
    # SOLUTION
    a = alphas_cumprod[t].to(x_start).reshape(-1, *[1] * (x_start.ndim - 1))
    return a.sqrt() * x_start + (1 - a).sqrt() * noise
    # END


# %% [markdown]
# Use it right away: the same six images at any step, on two schedules. Move the slider. The cosine schedule is
# explained in section 10; for now, find the step at which each schedule has destroyed the object.

# %%
schedules = {"linear": linear_betas(T), "cosine": cosine_betas(T)}


def noise_level(t, schedule):
    a = (1 - schedules[schedule]).cumprod(0)  # alpha-bar
    noise = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    x_t = q_sample(images[:6], torch.full((6,), t), noise, a.float())
    title = f"{schedule} schedule, t = {t}: alpha-bar = {a[t]:.4f}"
    return room.image_grid(x_t, columns=6, title=title)


step_slider = slider(0, T - 1, 60, label="step t")
explore(noise_level, t=step_slider, schedule=["linear", "cosine"])

# %% [markdown]
# ## 3 The way back, if you knew the image
#
# Going back one step from $x_t$ alone is hard: it depends on what images there are. But if you also know $x_0$, Bayes'
# theorem gives the exact answer. The chain is Markov, so $q(x_t \mid x_{t-1}, x_0) = q(x_t \mid x_{t-1})$ and
#
# $$q(x_{t-1} \mid x_t, x_0) = \frac{q(x_t \mid x_{t-1})\; q(x_{t-1} \mid x_0)}{q(x_t \mid x_0)}$$
#
# Every factor is a normal density. As a function of $x_{t-1}$, the exponent is $-\tfrac12$ times
#
# $$\frac{(x_t - \sqrt{\alpha_t}\,x_{t-1})^2}{\beta_t} + \frac{(x_{t-1} - \sqrt{\bar\alpha_{t-1}}\,x_0)^2}{1-\bar\alpha_{t-1}} + \text{const}$$
#
# or, by powers of $x_{t-1}$,
#
# $$\Big(\underbrace{\tfrac{\alpha_t}{\beta_t} + \tfrac{1}{1-\bar\alpha_{t-1}}}_{1/\tilde\beta_t}\Big) x_{t-1}^2 -
# 2\Big(\underbrace{\tfrac{\sqrt{\alpha_t}}{\beta_t}x_t + \tfrac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}x_0}_{\tilde\mu_t/\tilde\beta_t}\Big) x_{t-1} + \text{const}$$
#
# A quadratic exponent is a normal distribution: the first bracket is one over its variance, the second its mean over
# its variance. With $\alpha_t(1-\bar\alpha_{t-1}) + \beta_t = \alpha_t - \bar\alpha_t + 1 - \alpha_t = 1-\bar\alpha_t$ they become (Eq. 7)
#
# $$\tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t \qquad
# \tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0 + \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t$$
#
# **Predict first:** what is $\tilde\beta$ at the very first step, and why?

# %% [markdown]
# ### Exercise: the posterior
#
# Return the mean, shaped like `x_t`, and the variance, shaped (b, 1, ...) so that it can multiply an image.
#
# <details><summary>Hint 1: the idea</summary>
# Compute three vectors of length T first: the weight of x_0, the weight of x_t, and the variance. Then look all
# three up at <code>t</code>. Before the first step there is no noise: alpha-bar there is 1.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>alphas_cumprod = torch.cumprod(1 - betas, dim=0)</code>, then
# <code>previous = torch.cat([torch.ones_like(betas[:1]), alphas_cumprod[:-1]])</code>
# </details>


# %% exercise: the posterior
@exercise("ddpm.posterior_mean_variance")
def posterior_mean_variance(x_start, x_t, t, betas):
    """Eq. 6, 7: mean (b ...) and variance (b 1 ...) of q(x_{t-1} | x_t, x_0).

    x_start, x_t: (b ...); t: (b,); betas: (T,)
    """
    # SOLUTION
    alphas_cumprod = (1 - betas).cumprod(0)
    previous = torch.cat([torch.ones_like(betas[:1]), alphas_cumprod[:-1]])
    of_x_start = previous.sqrt() * betas / (1 - alphas_cumprod)
    of_x_t = (1 - betas).sqrt() * (1 - previous) / (1 - alphas_cumprod)
    variance = betas * (1 - previous) / (1 - alphas_cumprod)
    of_x_start, of_x_t, variance = (
        table[t].to(x_t).reshape(-1, *[1] * (x_t.ndim - 1))
        for table in (of_x_start, of_x_t, variance)
    )
    return of_x_start * x_start + of_x_t * x_t, variance
    # END


# %% [markdown]
# You can check Bayes' theorem by brute force, with no theorem at all: run the chain many times from one $x_0$, keep
# the runs that happen to pass close to one chosen value at step $t$, and see where they came from.

# %%
n = 400_000  # runs, all from the same number
step = 60
x_start = torch.full((n, 1), 0.8)
rng = torch.Generator().manual_seed(0)
noise = torch.randn(n, 1, generator=rng)
x_prev = q_sample(x_start, torch.full((n,), step - 1), noise, alphas_cumprod)
beta = float(betas[step])
noise = torch.randn(n, 1, generator=rng)
x_t = (1 - beta) ** 0.5 * x_prev + beta**0.5 * noise  # one step on
came_from = x_prev[(x_t - 0.5).abs() < 0.01]  # of the runs that arrive near 0.5
print(f"{n:,} runs, {len(came_from):,} of them arrive near 0.5")

# %%
from course_lib.classroom import show

x_t = torch.tensor([[0.5]])
mean, variance = posterior_mean_variance(x_start[:1], x_t, torch.tensor([step]), betas)
normal = torch.distributions.Normal(mean[0], variance[0].sqrt())
grid = torch.linspace(0.25, 0.75, 200)
title = "Where did the runs that reach x_t = 0.5 come from?"
fig, ax = room.figure(title, "x_{t-1}", "density")
label = f"{len(came_from):,} of {n:,} runs"
ax.hist(came_from.numpy(), bins=60, density=True, color="#56B4E9", label=label)
ax.plot(grid, normal.log_prob(grid).exp(), label="Eq. 6 and 7")
ax.legend()
show(
    fig,
    "A histogram of simulated values of x_{t-1}, and through it the density of Eq. 7.",
)

# %% [markdown]
# The curve was not fitted to the histogram: it is your formula. And at the very first step $\tilde\beta = 0$: $x_0$ is known, so
# nothing is left to guess.
#
# ### Exercise: the image under the noise
#
# A network will tell us the noise in $x_t$. Turn that into a guess of the image: solve Eq. 4 for $x_0$ (DDPM
# Eq. 15). No clamping.
#
# <details><summary>Hint 1: the idea</summary>
# x_t is a weighted sum of image and noise. Take the noise away, then undo the shrinking.
# </details>
# <details><summary>Hint 2: the line</summary>
# With <code>a</code> as in the first exercise: subtract <code>(1 - a).sqrt() * eps</code>, then divide.
# </details>


# %% exercise: the image under the noise
@exercise("ddpm.predict_x_start")
def predict_x_start(x_t, t, eps, alphas_cumprod):
    """Eq. 15: x_0 from x_t and its noise.

    x_t, eps: (b ...); t: (b,); alphas_cumprod: (T,)
    """
    # SOLUTION
    a = alphas_cumprod[t].to(x_t).reshape(-1, *[1] * (x_t.ndim - 1))
    return (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    # END


# %% [markdown]
# ## 4 The bound
#
# The model is a chain in the other direction, $p_\theta(x_{0:T}) = p(x_T)\prod_t p_\theta(x_{t-1}\mid x_t)$ with $p(x_T) = \mathcal N(0, I)$ and
# $p_\theta(x_{t-1}\mid x_t) = \mathcal N(\mu_\theta(x_t,t), \sigma_t^2 I)$. Its likelihood is an integral over all noisy images, which nobody
# can compute. Jensen's inequality, $\log \mathbb E[z] \ge \mathbb E[\log z]$, gives a bound on it (Eq. 3):
#
# $$-\log p_\theta(x_0) \le \mathbb E_q\!\left[-\log \frac{p_\theta(x_{0:T})}{q(x_{1:T}\mid x_0)}\right]
# = \mathbb E_q\!\left[-\log p(x_T) - \sum_{t\ge 1} \log\frac{p_\theta(x_{t-1}\mid x_t)}{q(x_t\mid x_{t-1})}\right]$$
#
# A Kullback-Leibler divergence is $\mathrm{KL}(q\,\|\,p) = \mathbb E_q[\log q - \log p] \ge 0$: in nats with the natural logarithm,
# in bits after division by $\log 2$. Now use section 3. For $t > 1$, Bayes turns each forward factor around:
# $q(x_t\mid x_{t-1}) = q(x_{t-1}\mid x_t,x_0)\,\dfrac{q(x_t\mid x_0)}{q(x_{t-1}\mid x_0)}$. The fractions cancel in pairs down the product,
# $q(x_1\mid x_0)$ cancels with the factor of $t=1$, and only $q(x_T\mid x_0)$ is left over. What remains are comparisons of normals with normals (Eq. 5):
#
# $$\mathbb E_q\Big[\underbrace{\mathrm{KL}\big(q(x_T\mid x_0)\,\|\,p(x_T)\big)}_{L_T} +
# \sum_{t>1}\underbrace{\mathrm{KL}\big(q(x_{t-1}\mid x_t,x_0)\,\|\,p_\theta(x_{t-1}\mid x_t)\big)}_{L_{t-1}}
# \underbrace{{}-\log p_\theta(x_0\mid x_1)}_{L_0}\Big]$$
#
# $L_T$ has nothing to learn: look at $x_T$, which is all but indistinguishable from noise. Each $L_{t-1}$ asks the
# network to step back as Bayes would if $x_0$ were known.

# %%
noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
x_T = q_sample(images, torch.full((16,), T - 1), noise, alphas_cumprod)
print(f"{tuple(x_T.shape)}, mean {x_T.mean():.3f}, standard deviation {x_T.std():.3f}")

# %% [markdown]
# The KL between two normals follows in one line. $\log \mathcal N_1 - \log \mathcal N_2$ is
# $\tfrac12\log\tfrac{\sigma_2^2}{\sigma_1^2} - \tfrac{(x-\mu_1)^2}{2\sigma_1^2} + \tfrac{(x-\mu_2)^2}{2\sigma_2^2}$; under $x\sim\mathcal N_1$ the mean of the second term is $-\tfrac12$
# and of $(x-\mu_2)^2$ is $\sigma_1^2 + (\mu_1-\mu_2)^2$:
#
# $$\mathrm{KL}(\mathcal N_1\|\mathcal N_2) = \tfrac12\left[\log\frac{\sigma_2^2}{\sigma_1^2} - 1 + \frac{\sigma_1^2}{\sigma_2^2} + \frac{(\mu_1-\mu_2)^2}{\sigma_2^2}\right]$$
#
# ### Exercise: the KL between normals
#
# The inputs are *log variances*, so that no variance can come out negative. Work element by element, in nats. In
# section 6 both coordinates of a point share a variance: (b, 1) beside means of (b, 2).
#
# <details><summary>Hint 1: the idea</summary>
# A quotient of variances is the exponential of a difference of their logarithms.
# </details>
# <details><summary>Hint 2: the line</summary>
# The last term is <code>(mean1 - mean2) ** 2 * torch.exp(-log_variance2)</code>.
# </details>


# %% exercise: the KL between normals
@exercise("ddpm.normal_kl")
def normal_kl(mean1, log_variance1, mean2, log_variance2):
    """KL(N1 || N2), element by element, in nats.  The four shapes broadcast."""
    # SOLUTION
    d = log_variance2 - log_variance1
    apart = (mean1 - mean2) ** 2 * torch.exp(-log_variance2)
    return 0.5 * (d - 1 + torch.exp(-d) + apart)
    # END


# %% [markdown]
# ## 5 Predict the noise
#
# The network could predict $\tilde\mu_t$ directly. DDPM's choice is to predict the noise. Put Eq. 15 into the mean of Eq. 7 and
# collect terms. With $\bar\alpha_t = \alpha_t\bar\alpha_{t-1}$ and the identity above Eq. 7, the weight of $x_t$ becomes
#
# $$\frac{\sqrt{\bar\alpha_{t-1}}\beta_t}{(1-\bar\alpha_t)\sqrt{\bar\alpha_t}} + \frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}
# = \frac{\beta_t + \alpha_t(1-\bar\alpha_{t-1})}{(1-\bar\alpha_t)\sqrt{\alpha_t}} = \frac{1}{\sqrt{\alpha_t}}$$
#
# and that of the noise $-\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\sqrt{\frac{1-\bar\alpha_t}{\bar\alpha_t}} = -\frac{1}{\sqrt{\alpha_t}}\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}$. Hence (Eq. 11)
#
# $$\mu_\theta(x_t, t) = \frac{1}{\sqrt{\alpha_t}}\left(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\varepsilon_\theta(x_t,t)\right)$$
#
# With a fixed $\sigma_t$ only the means depend on the network; all else is a constant $C$. The KL of section 4, summed over the
# coordinates, leaves $\|\tilde\mu_t - \mu_\theta\|^2 / 2\sigma_t^2$ (Eq. 8). Put Eq. 11 into both means: they differ only in the noise,
# and $L_{t-1}$ is a weighted squared error of the noise (Eq. 12):
#
# $$L_{t-1} - C = \mathbb E\left[\frac{\beta_t^2}{2\sigma_t^2\alpha_t(1-\bar\alpha_t)}\,\big\|\varepsilon - \varepsilon_\theta(x_t, t)\big\|^2\right]$$

# %%
import math

from course_lib.classroom import show_lines
from course_lib.metrics.evidence import value

weight = betas / (2 * (1 - betas) * (1 - alphas_cumprod))  # Eq. 12 with sigma^2 = beta
show_lines(
    range(1, T + 1),
    {"weight": weight},
    "What Eq. 12 multiplies the squared error by",
    "t, from 1",
    "weight",
    xscale="log",
    yscale="log",
    height=2.4,
    alt="The weight falls from 0.5 at the first step to 0.005 near step 350, then"
    " rises to 0.01.",
)
times = float(weight[0] / weight[99:].max())
room.claim(
    "Eq. 12 weighs the first step over forty times as much as any from the hundredth"
    " on.",
    value(times, "times") > 40,
)

# %% [markdown]
# At the first step the noise is so faint that no eye would see it. DDPM drops the weight altogether (Eq. 14):
#
# $$L_\text{simple} = \mathbb E_{t, x_0, \varepsilon}\,\big\|\varepsilon - \varepsilon_\theta\big(\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon,\ t\big)\big\|^2$$
#
# In the paper's Tables 1 and 2 that made the samples better and the likelihood worse. Half of this chapter is about that trade-off.
#
# What does a perfect network say? The squared error's minimum is the mean of what is still possible, so it says
# $\varepsilon^*(x_t, t) = \mathbb E[\varepsilon \mid x_t]$. By Eq. 4 that is the *score* of the noisy images,
# $\varepsilon^*(x_t, t) = -\sqrt{1-\bar\alpha_t}\,\nabla_{x_t} \log q(x_t)$: differentiate
# $q(x_t) = \mathbb E_{x_0}[q(x_t \mid x_0)]$, whose exponent gives $-(x_t - \sqrt{\bar\alpha_t}\,x_0)/(1-\bar\alpha_t) = -\varepsilon/\sqrt{1-\bar\alpha_t}$.
#
# ### Exercise: the simple loss
#
# Return one loss per sample: the mean squared error over the sample's own values. (Eq. 14 has the squared norm, a sum; the
# mean differs by a constant factor and does not grow with the image.) Use your `q_sample`. Gradients flow to the weights of
# `model`. (In a case of the check `model` has one, listed as `weight`; your function does not take it.)
#
# <details><summary>Hint 1: the idea</summary>
# Make x_t, call the model, compare its output with the noise you put in.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>.flatten(1).mean(1)</code> turns (b ...) into (b,).
# </details>


# %% exercise: the simple loss
@exercise("ddpm.simple_loss")
def simple_loss(model, x_start, t, noise, alphas_cumprod):
    """Eq. 14 for each sample, (b,).

    model: (x_t, t) -> noise; x_start, noise: (b ...); t: (b,); alphas_cumprod: (T,)
    """
    # SOLUTION
    x_t = q_sample(x_start, t, noise, alphas_cumprod)
    return ((noise - model(x_t, t)) ** 2).flatten(1).mean(1)
    # END


# %% [markdown]
# ### Exercise: one step back
#
# Algorithm 2, line 4: the mean of Eq. 11 plus $\sigma_t z$, with $\sigma_t^2 = \beta_t$. `t` holds one step per
# sample; wherever it is 0, no noise is added. The function is given only betas: compute alpha and alpha-bar first.
#
# <details><summary>Hint 1: the idea</summary>
# Three vectors of length T again: the factor in front, the weight of eps, and sigma with a 0 as its first entry.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>sigma = betas.sqrt() * (torch.arange(len(betas)) > 0)</code>
# </details>


# %% exercise: one step back
@exercise("ddpm.sample_step")
def sample_step(x_t, t, eps, noise, betas):
    """Algorithm 2, line 4.  x_t, eps, noise: (b ...); t: (b,); betas: (T,)"""
    # SOLUTION
    pull = betas / (1 - (1 - betas).cumprod(0)).sqrt()
    sigma = betas.sqrt() * (torch.arange(len(betas)) > 0)
    scale, pull, sigma = (
        table[t].to(x_t).reshape(-1, *[1] * (x_t.ndim - 1))
        for table in ((1 - betas).rsqrt(), pull, sigma)
    )
    return scale * (x_t - pull * eps) + sigma * noise
    # END


# %% [markdown]
# ## 6 A world whose density you know
#
# Before images, something for which the truth is known: eight blobs in the plane. A mixture of normals stays a
# mixture of normals under Eq. 4, so its exact density, and even the *best possible* noise prediction
# $\mathbb E[\varepsilon \mid x_t]$, have closed forms. Your network can be compared with perfection.
#
# It is a small network, and its training loop is all there is to DDPM (Algorithm 1). Read it line by line. Each network is
# one run with one seed.

# %%
from torch import nn

from course_lib.diffusion import GaussianMixture
from course_lib.nn.embeddings import timestep_embedding

blobs = GaussianMixture.ring(components=8, radius=0.75, std=0.1)
short_betas = linear_betas(100).float()  # T = 100 is enough in the plane
short_cumprod = torch.cumprod(1 - short_betas, dim=0)


class PlaneNet(nn.Module):
    """Predict the noise in points of the plane; time is in thousandths of the chain."""

    def __init__(self, width=128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2),
        )

    def forward(self, x, t):
        return self.layers(torch.cat([x, timestep_embedding(10 * t, 32)], dim=1))


# %%
def train_plane(chances, updates=6000):
    """Train a PlaneNet on L_simple, with t drawn by these chances (T,)."""
    torch.manual_seed(0)
    net = PlaneNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3, fused=True)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, updates)
    for _ in room.busy("Training in the plane", range(updates)):
        x_start = blobs.sample(256)
        t = torch.multinomial(chances, 256, replacement=True)
        noise = torch.randn_like(x_start)
        loss = simple_loss(net, x_start, t, noise, short_cumprod).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return net


plane_net = train_plane(torch.ones(100))  # t evenly, as in Eq. 14

# %% [markdown]
# And a control: the same network, seed and number of updates, but with $t$ drawn in proportion to the weight that Eq. 14
# dropped. On average that *is* Eq. 12.

# %%
short_weight = short_betas / (2 * (1 - short_betas) * (1 - short_cumprod))
weighted_net = train_plane(short_weight)

# %% [markdown]
# Now walk back from noise with your `sample_step`, with both networks and with the perfect prediction.
#
# **Predict first:** what will the control do better, and at which steps?


# %%
def walk_back(eps_of, n=1500):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    for step in reversed(range(100)):
        t = torch.full((n,), step)
        x = sample_step(x, t, eps_of(x, t), torch.randn_like(x), short_betas)
    return x


def perfect(x, t):
    return blobs.best_eps(x, float(short_cumprod[t[0]]))


with torch.no_grad():
    samples = {
        "data": blobs.sample(1500),
        "your network": walk_back(plane_net),
        "by the weight": walk_back(weighted_net),
        "perfect": walk_back(perfect),
    }
show(
    room.scatter_panels(samples, "Samples in the plane"),
    "Four panels of points in the plane: the data, eight blobs on a ring; samples of"
    " your network; of the control, with t drawn by the weight of Eq. 12; of the"
    " perfect denoiser.",
)

# %%
from course_lib.metrics.evidence import ordered, paired, shares, single, unpaired


def to_centre(points):
    """Return the distance of each point to the nearest of the eight centres."""
    return torch.cdist(points.double(), blobs.means).min(1).values


def stray(name):
    """Count the points three standard deviations or more from every centre."""
    return int((nearest[name] > 0.3).sum())


nearest = {name: to_centre(points) for name, points in samples.items()}
for name in samples:
    print(f"{name:14s} {nearest[name].mean():.3f} from a centre", end=", ")
    print(f"{stray(name) / 1500:.1%} between the blobs")

# %%
room.reading(
    shares(stray("your network"), 1500, stray("data"), 1500) > 0,
    "Your network leaves more points between the blobs than the data have: they run"
    " together.",
    "Your network leaves no more points between the blobs than the data have, as far"
    " as 1,500 points can show.",
)
room.reading(
    unpaired(nearest["by the weight"], nearest["your network"]) < 0,
    "With t drawn by the weight of Eq. 12, points come closer to a centre.",
    "With t drawn by the weight of Eq. 12, points come no closer to a centre, as far"
    " as 1,500 points can show.",
)

# %% [markdown]
# How good is the bound? Its terms are KLs between normals (your `normal_kl`), and for points in the plane $L_0$ is an
# ordinary normal density. Compare it with the exact $-\log_2 p(x_0)$, in bits per dimension.
#
# **Predict first:** order the three numbers "exact", "bound with the perfect denoiser", "bound with your network".

# %%
from course_lib.papers import ddpm, improved_ddpm


def bound(eps_of, x_start, betas, variances):
    """Return L_0 to L_{T-1} of Eq. 5 in bits per dimension (L_T is negligible)."""
    a = torch.cumprod(1 - betas, dim=0)  # alpha-bar
    log_tilde = ddpm.posterior_log_variance(betas).float()
    log_variance = variances.log().float()
    terms = []
    for step in range(len(betas)):
        t = torch.full((len(x_start),), step)
        x_t = q_sample(x_start, t, torch.randn_like(x_start), a)
        guess = predict_x_start(x_t, t, eps_of(x_t, t), a)
        mean, _ = posterior_mean_variance(guess, x_t, t, betas)
        true_mean, _ = posterior_mean_variance(x_start, x_t, t, betas)
        if step > 0:
            term = normal_kl(true_mean, log_tilde[t, None], mean, log_variance[t, None])
        else:
            normal = torch.distributions.Normal(mean, (log_variance[0] / 2).exp())
            term = -normal.log_prob(x_start)
        terms.append(term.mean())
    return torch.stack(terms) / math.log(2)


# %%
points = blobs.sample(4000, torch.Generator().manual_seed(5))
exact = float(-blobs.log_prob(points).mean()) / 2 / math.log(2)
with torch.no_grad():
    perfect_terms = bound(perfect, points, short_betas, short_betas)
    network_terms = bound(plane_net, points, short_betas, short_betas)
    weighted_terms = bound(weighted_net, points, short_betas, short_betas)
print(f"exact                      {exact:7.3f} bits per dimension")
print(f"bound, perfect denoiser    {perfect_terms.sum():7.3f}")
print(f"bound, your network        {network_terms.sum():7.3f}")
print(f"bound, by the weight       {weighted_terms.sum():7.3f}")

# %% [markdown]
# This raises two questions. First, where does your network lose to the perfect one?

# %%
lost = network_terms - perfect_terms
weighted_lost = weighted_terms - perfect_terms
show_lines(
    range(1, 101),
    {"your network": lost, "by the weight": weighted_lost},
    f"{lost[:5].sum() / lost.sum():.0%} is lost in the first five steps",
    "t, from 1",
    "bits/dim above perfect",
    xscale="log",
    height=2.4,
    alt="What two networks lose to the perfect denoiser, by step.",
)
room.reading(
    single(float(weighted_lost[:5].sum()), float(lost[:5].sum()), "bits/dim") < 0,
    "In the first five steps the control loses less: L_simple gives them too little"
    " weight.",
    "In the first five steps the control loses no less: here the weight is not what is"
    " missing.",
)

# %% [markdown]
# Remember this figure in section 8.
#
# Second, why is the bound above the truth even for the perfect denoiser? Each step back is one normal of fixed variance,
# and the true step back is neither one normal nor of that variance. Does it help to take more, smaller steps? That
# depends on the variance.
#
# **Predict first:** which of $\sigma_t^2 = \beta_t$ and $\sigma_t^2 = \tilde\beta_t$ will close the gap?


# %%
def gap(n, tilde):
    """Return the bound of the perfect denoiser in n cosine steps, minus the truth."""
    chain_betas = cosine_betas(n).float()
    a = torch.cumprod(1 - chain_betas, dim=0)  # alpha-bar
    variances = ddpm.posterior_log_variance(chain_betas).exp() if tilde else chain_betas

    def perfect_on_chain(x, t):
        return blobs.best_eps(x, float(a[t[0]]))

    return float(bound(perfect_on_chain, points, chain_betas, variances).sum()) - exact


# %%
counts = [10, 20, 50, 100, 200]
gaps = {
    "beta": [gap(n, tilde=False) for n in counts],
    "beta-tilde": [gap(n, tilde=True) for n in counts],
}
show_lines(
    counts,
    gaps,
    "What fixed variances cost",
    "number of steps T",
    "bound minus truth, bits/dim",
    xscale="log",
    height=2.6,
    ylim=(0, 1.6),
    alt="The bound minus the truth against the number of steps, for variances beta and"
    " beta-tilde.",
)
room.claim(
    "With variance beta the gap closes as steps are added; with beta-tilde it stays"
    " wide.",
    (value(gaps["beta"][-1] / gaps["beta"][0], "of the first gap with beta") < 0.2)
    & (value(gaps["beta-tilde"][-1] / gaps["beta-tilde"][0], "with beta-tilde") > 0.5),
)

# %% [markdown]
# As steps are added, the true step back tends to a normal of variance $\beta_t$: one small step cannot tell where it came from.
# $\tilde\beta_t$ is right when $x_0$ is known. More on this in section 9.

# %% [markdown]
# ## 7 Train it here
#
# Now images. The network is a miniature of Improved DDPM's U-Net, which is DDPM's with small changes (time scales and
# shifts the norms). DDPM's own network, at the paper's size, has exactly as many parameters as the official one.

# %%
from course_lib.training import find_recipe

untrained = find_recipe("ddpm-live").build().model
print(f"ddpm/CIFAR-10 {room.parameters('ddpm/CIFAR-10'):>12,} parameters")
print(f"ours          {room.parameters(untrained):>12,}")

# %% [markdown]
# It trains for at most 60 seconds, on $L_\text{simple}$ with the linear schedule. The weights that are kept are a
# running average (EMA) of those that are trained, as in the paper.
#
# **Predict first:** which will be right first, the floor, the colour or the shape of the object?

# %%
trained = room.train_live("ddpm-live", seconds=60)

# %%
start = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(2))
process = find_recipe("ddpm-live").diffusion.respaced(250)  # of 1000 steps: section 12
rng = torch.Generator().manual_seed(0)
networks = room.with_stored(trained, "ddpm-16-linear-simple")
rows = [process.sample(untrained, start[:8], generator=rng)]
for network in networks.values():
    rows.append(process.sample(network, start, generator=rng))
show_images(
    torch.cat(rows),
    columns=8,
    title=f"Before training; {'; '.join(networks)}",
    alt="First row: eight samples of the untrained network. Below: sixteen of each"
    " network named in the title.",
)

# %% [markdown]
# Watch one sample come into being. Above is $x_t$, below the network's guess of $x_0$ at that moment (Eq. 15, clipped).
#
# **Predict first:** as long as nothing can be known, what would the *best* guess look like?

# %%
path = list(process.denoise(network, start[:1], generator=rng))
stages = [path[i] for i in (0, 60, 120, 160, 190, 215, 235, 249)]
show_images(
    torch.cat([x for x, _ in stages] + [guess.x_start for _, guess in stages]),
    columns=8,
    alt="Above, x_t at eight stages of the way back; below, the guess of the image at"
    " each.",
)
blown_up = float((1 / alphas_cumprod[-1] - 1).sqrt())
room.claim(
    f"At the last step Eq. 15 multiplies an error in the noise by {blown_up:.0f}.",
    value(blown_up, "times") > 150,
)

# %% [markdown]
# The ideal guess is the mean of what is still possible, $\mathbb E[x_0 \mid x_t]$: where nothing can be known, the average of all images.
# A network's guess begins as noise instead, because of that factor in Eq. 15.

# %% [markdown]
# ## 8 How many bits is an image?
#
# A likelihood is a number of bits: a model that gives an image probability $p$ lets you store it in $-\log_2 p$ bits.
# Divided by the number of values (16 x 16 x 3), that is *bits per dimension*. An uncompressed image has 8.
#
# A good likelihood matters because it is a promise to cover *all* of the data: a model that leaves out a kind of
# image pays infinitely many bits when one comes along. Looking at samples cannot show what a model leaves out.

# %%
pixel_values = torch.arange(256) / 127.5 - 1  # 0, 1, ..., 255 as the networks see them
print(f"{tuple(images.shape[1:])}: {images[0].numel()} dimensions")
apart = pixel_values[1] - pixel_values[0]
print(f"{len(pixel_values)} pixel values, {apart:.5f} apart")

# %% [markdown]
# Pixels are whole numbers, and a density is not a probability. So the last term, $L_0$, integrates the normal's density over
# the bin of each pixel value. On the scale of -1 to 1 values are $2/255$ apart (Eq. 13):
#
# $$p_\theta(x_0\mid x_1) = \prod_i \int_{\delta_-(x_0^i)}^{\delta_+(x_0^i)} \mathcal N(x;\, \mu_\theta^i(x_1, 1),\, \sigma_1^2)\,dx
# \qquad \delta_\pm(x) = x \pm \tfrac{1}{255}$$
#
# except that the bins of black and white are open: $\delta_-(-1) = -\infty$ and $\delta_+(1) = \infty$.
#
# ### Exercise: the discretized normal
#
# Return minus the log of that mass, in nats, element by element; clamp the mass at 1e-12 before the logarithm. A value counts
# as black below -0.999 and as white above 0.999, so that rounding does no harm.
#
# <details><summary>Hint 1: the idea</summary>
# A mass is a difference of two values of the distribution function, <code>torch.special.ndtr</code> for the standard
# normal. For black the lower one is 0, for white the upper one is 1.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>above = torch.where(x > 0.999, 1.0, torch.special.ndtr((x + 1 / 255 - mean) / log_scale.exp()))</code>
# </details>


# %% exercise: the discretized normal
@exercise("ddpm.discretised_nll")
def discretized_nll(x, mean, log_scale):
    """Eq. 13 in nats.  x: pixel values k / 127.5 - 1; log_scale: log of the standard
    deviation; all of one shape"""
    # SOLUTION
    above = torch.special.ndtr((x + 1 / 255 - mean) / log_scale.exp())
    below = torch.special.ndtr((x - 1 / 255 - mean) / log_scale.exp())
    above = torch.where(x > 0.999, 1.0, above)
    below = torch.where(x < -0.999, 0.0, below)
    return -(above - below).clamp(min=1e-12).log()
    # END


# %%
mean = torch.full((256,), 0.97)
mass = torch.exp(-discretized_nll(pixel_values, mean, torch.full((256,), -3.0)))
print(f"probabilities of the 256 pixel values add up to {mass.sum():.6f};", end=" ")
print(f"white alone has {mass[-1]:.3f}")

# %% [markdown]
# All terms of Eq. 5 are in place. The long-trained models below were evaluated with them on 128 test images, one
# network call for each of the $T$ terms. Each is one run with one seed, so ± is over the images only. They share data, seed, number of steps and
# network, except that `simple` has a fixed variance ($\beta_t$) and so half as many output channels; `vlb` draws $t$ by
# importance (section 11).

# %%
from course_lib.training import results

runs = {}
for schedule in ("linear", "cosine"):
    for objective in ("simple", "hybrid", "vlb"):
        runs[f"{schedule}-{objective}"] = results(f"ddpm-16-{schedule}-{objective}")
for name, run in runs.items():
    made, scores = run["provenance"], run["metrics"]
    minutes = made["seconds"] / 60
    cost = f"{made['steps']:,} steps, {minutes:.0f} min on {made['device']}"
    bits, error = scores["bits_per_dim"], scores["bits_per_dim_error"]
    print(f"{name:14s} {cost}: {bits:.3f} ± {error:.3f} bits/dim")

# %% [markdown]
# Read the bound as a message, and the plots from right to left. A sender transmits $x_T$, then what is needed to get
# from $x_T$ to $x_{T-1}$, and so on. (A KL is what it costs on average to send a *sample*, by relative-entropy coding.) The *rate* is
# what has been sent when the receiver holds $x_t$; the *distortion* is how far off the network's guess of the image is (Eq. 15,
# clipped), on the scale of 0 to 255. The dashed line is the distortion of guessing the average image.
#
# **Predict first:** at what $t$ does the receiver have half of the rate?

# %%
training = pixels_to_float(data.images("train", 1000, 16, scale="large")["pixels"])
measured = pixels_to_float(data.images("test", 128, 16, scale="large")["pixels"])
average_off = 127.5 * float((measured - training.mean(0)).square().mean().sqrt())
print(f"guessing the average image: off by {average_off:.1f} of 255")


# %%
def where_the_bits_go(t, run):
    rate = torch.tensor(runs[run]["details"]["rate"])
    distortion = torch.tensor(runs[run]["details"]["distortion"])
    title = f"t = {t}: {rate[t]:.3f} bits/dim sent, off by {distortion[t]:.1f} of 255"
    fig, (left, right) = room.figure(title, "t", columns=2, height=2.6)
    left.plot(rate)
    left.plot(t, rate[t], "o", color="#000000")
    left.set(ylabel="rate, bits/dim")
    right.plot(distortion, color="#E69F00")
    right.axhline(average_off, color="#000000", linewidth=1, linestyle="--")
    right.plot(t, distortion[t], "o", color="#000000")
    right.set(ylabel="distortion (RMSE)")
    return fig


explore(where_the_bits_go, t=slider(0, T - 1, 100, label="step t"), run=list(runs))

# %%
details = runs["linear-simple"]["details"]
terms = torch.tensor(details["terms"])
last_hundred = terms[1:101].sum() / terms[1:].sum()
print(f"linear-simple: {terms[0]:.2f} bits/dim for L_0,", end=" ")
print(f"{terms[1:].sum():.2f} for all other terms;", end=" ")
print(f"{last_hundred:.0%} of those in the 100 steps nearest the image")
half = int((torch.tensor(details["rate"]) > terms[1:].sum() / 2).sum())
print(f"half of the rate has been sent when the receiver holds x_t at t = {half}")
room.claim(
    "Of the rate, over nine tenths are sent in the hundred steps nearest the image.",
    value(float(last_hundred), "of the rate") > 0.9,
)
best_start = min(run["details"]["distortion"][-1] for run in runs.values())
room.claim(
    "At the start of the way back every network's guess is worse than the average"
    " image.",
    value(best_start / average_off, "times the average image's error, at best") > 1,
)

# %% [markdown]
# The rate leaves out $L_0$, the last message. DDPM's Table 4 shows the same on CIFAR-10: of its rate, over 93% belongs to the
# last hundred steps back. Those bits describe detail that no eye can see.

# %% [markdown]
# ## 9 Why the likelihood was poor: the variance
#
# DDPM had excellent samples and a likelihood of 3.75 bits per dimension on CIFAR-10, when autoregressive models were
# below 3. Nichol and Dhariwal ask why. First they raise $T$ from 1000 to 4000, which helps (3.99 to 3.77 on ImageNet 64, Table 1).
# Then they turn to the variance $\sigma_t^2$, which DDPM fixes at
# $\beta_t$ or $\tilde\beta_t$, with similar results for both. $\beta_t$ is the right variance if the data are
# themselves $\mathcal N(0, I)$, $\tilde\beta_t$ if they are a single point: an upper and a lower bound for data whose
# coordinates have variance at most 1.

# %%
variance_ratio = ddpm.posterior_variance(betas) / betas
show_lines(
    range(1, T + 1),
    {"T = 1000": variance_ratio},
    "How far apart are the two choices of the variance?",
    "t, from 1",
    "beta-tilde / beta",
    xscale="log",
    height=2.4,
    alt="The ratio starts at zero, is 0.85 at step 10 and practically 1 from step 100"
    " on.",
)

# %% [markdown]
# The two differ only near $t = 0$. That, says the paper, is why samples do not care. But section 8 showed that the bits are spent near
# $t = 0$. So the likelihood cares very much.
#
# The remedy is to let the network say, for every value, where between the two it wants to be. The sensible range is narrow,
# so a network that predicted the variance itself would easily miss it. Instead it predicts a position in the range, on a
# logarithmic scale (Improved DDPM, its Eq. 15):
#
# $$\Sigma_\theta(x_t, t) = \exp\big(v\log\beta_t + (1-v)\log\tilde\beta_t\big)$$
#
# The output of the network gets twice as many channels: the noise, then the position.

# %%
from course_lib.training import load_checkpoint

hybrid, _ = load_checkpoint("ddpm-16-cosine-hybrid")
with torch.no_grad():
    output = hybrid(images, torch.full((16,), 500.0))
print(f"in: {tuple(images.shape)}, out: {tuple(output.shape)}")

# %% [markdown]
# The last layer starts at zero, so the code reads an output $v$ as the share $(v + 1) / 2$: 0 becomes the middle, -1
# becomes $\tilde\beta$ and 1 becomes $\beta$. (The $v$ of Eq. 15 is that share.) Nothing confines it to that range.
#
# ### Exercise: the learned variance
#
# Return the *log* variance, without clamping v. At the first step $\tilde\beta$ is 0 and its logarithm minus infinity, so take
# `ddpm.posterior_log_variance(betas)`: $\log\tilde\beta$, with the second entry in place of the first.
#
# <details><summary>Hint 1: the idea</summary>
# First turn v from [-1, 1] into a share from [0, 1].
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>share * betas.log()[t] + (1 - share) * ddpm.posterior_log_variance(betas)[t]</code>, both tables with axes
# added.
# </details>


# %% exercise: the learned variance
@exercise("ddpm.learned_range_variance")
def learned_range_variance(v, t, betas):
    """Eq. 15: log variance (b ...) for the network's v.

    v: (b ...); t: (b,); betas: (T,)
    """
    # SOLUTION
    shape = (-1, *[1] * (v.ndim - 1))
    large = betas.log()[t].to(v).reshape(shape)
    small = ddpm.posterior_log_variance(betas)[t].to(v).reshape(shape)
    share = (v + 1) / 2
    return share * large + (1 - share) * small
    # END


# %% [markdown]
# $L_\text{simple}$ says nothing about the variance, so it must be taught by the bound. The bound alone would train badly,
# as section 11 shows. The compromise is the hybrid (Eq. 16), with $\lambda = 0.001$:
#
# $$L_\text{hybrid} = L_\text{simple} + \lambda L_\text{vlb}$$
#
# and one more idea: inside $L_\text{vlb}$ the predicted noise is *detached*. The noise learns from
# $L_\text{simple}$ alone, and the bound teaches the variance and nothing else.
#
# ### Exercise: the hybrid loss
#
# `improved_ddpm.vlb_term(eps, v, x_start, x_t, t, betas)` gives one term of the bound for each sample, in bits per dimension.
# $L_\text{vlb}$ is the sum of all `len(betas)` terms, so one random term times that number stands for it. `eps` is the first half of
# the output's channels, `v` the second. Return one loss per sample. Gradients flow through `output`.
#
# <details><summary>Hint 1: the idea</summary>
# Cut the output into two halves along the channels. One of them must not receive the gradient of the bound.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>eps, v = output.chunk(2, dim=1)</code>, then <code>eps.detach()</code> in one of its two uses.
# </details>


# %% exercise: the hybrid loss
@exercise("ddpm.hybrid_loss")
def hybrid_loss(output, x_start, x_t, t, noise, betas):
    """Eq. 16 for each sample, (b,).

    output: (b 2c h w); x_start, x_t, noise: (b c h w); t: (b,); betas: (T,)
    """
    # SOLUTION
    eps, v = output.chunk(2, dim=1)
    simple = ((noise - eps) ** 2).flatten(1).mean(1)
    vlb = improved_ddpm.vlb_term(eps.detach(), v, x_start, x_t, t, betas)
    return simple + 0.001 * len(betas) * vlb
    # END


# %% [markdown]
# What does the network make of its freedom? The figure shows the share $(v+1)/2$ it chose, by step, and the best *single* share:
# one variance for all values of a step. The KL of section 4 is smallest, over its second variance, at
#
# $$\sigma_t^2 = \tilde\beta_t + \mathbb E\big[(\tilde\mu_t - \mu_\theta)^2\big]$$
#
# The better $x_0$ is known from $x_t$, the smaller the second term, and the nearer $\tilde\beta_t$ is the best share.

# %%
cosine_process = find_recipe("ddpm-16-cosine-hybrid").diffusion
steps = [1, 2, 5, 10, 20, 50, 100, 200, 400, 700, 950]
small = ddpm.posterior_log_variance(cosine_process.betas)
large = cosine_process.betas.log()
rng = torch.Generator().manual_seed(0)
chosen = []
best = []
for step in steps:
    t = torch.full((128,), step)
    noise = torch.randn(measured.shape, generator=rng)
    x_t = cosine_process.q_sample(measured, t, noise)
    with torch.no_grad():
        _, v = cosine_process.call_network(hybrid, x_t, t).chunk(2, dim=1)
        mean = cosine_process.p_mean_variance(hybrid, x_t, t, clip=False).mean
    true_mean, tilde = ddpm.posterior_mean_variance(
        measured, x_t, t, cosine_process.betas
    )
    variance = tilde[0] + (true_mean - mean).square().mean()  # the best single one
    chosen.append(float((v.mean() + 1) / 2))
    best.append(float((variance.log() - small[step]) / (large[step] - small[step])))

# %%
show_lines(
    steps,
    {"chosen, mean over values": chosen, "best single share": best},
    "Where between beta-tilde (0) and beta (1)?",
    "t",
    "share",
    xscale="log",
    height=2.4,
    alt="Two curves against the step: the share of beta that the network chose, and"
    " the best single share.",
)
at_1, at_400 = steps.index(1), steps.index(400)
room.claim(
    "The best single share falls from step 1 to step 400: the ideal moves towards"
    " beta-tilde.",
    ordered({"at 400": best[at_400], "at 1": best[at_1]}),
)
apart = float(large[100] - small[100])
room.claim(
    "The network follows only in part. From step 100 on, the two variances are within"
    " 3%, so that the share hardly matters.",
    (value(chosen[at_400] - best[at_400], "chosen minus best at step 400") > 0)
    & (value(math.expm1(apart), "apart at step 100, as a part") < 0.03),
)

# %% [markdown]
# ## 10 The schedule
#
# Go back to the slider of section 2: under the linear schedule the last quarter of the steps is almost pure noise.
# Those steps teach little: in the paper, up to a fifth of the *whole* way back can be skipped with little loss in FID (Figure 4). The cosine
# schedule lets $\bar\alpha$ fall almost linearly in the middle and slowly at both ends. It defines $\bar\alpha$ itself (Eq. 17):
#
# $$\bar\alpha_t = \frac{f(t)}{f(0)} \qquad f(t) = \cos^2\!\left(\frac{t/T + s}{1+s}\cdot\frac{\pi}{2}\right) \qquad s = 0.008$$
#
# The offset $s$ keeps the first betas from being too small, since noise that faint is hard to predict: $\sqrt{\beta_1}$ is 0.0064
# for $T = 1000$, slightly below the bin width $1/127.5 = 0.0078$.
#
# ### Exercise: the cosine schedule
#
# Return $\bar\alpha$ for $t = 1, \dots, T$ in float64, T numbers.
#
# <details><summary>Hint 1: the idea</summary>
# Evaluate f on T + 1 points, from 0 to T; the first of them is the f(0) to divide by.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps</code>
# </details>


# %% exercise: the cosine schedule
@exercise("ddpm.cosine_alphas_cumprod")
def cosine_alphas_cumprod(timesteps, s=0.008):
    """Eq. 17: alpha-bar for t = 1..T, float64 (T,)"""
    # SOLUTION
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((t + s) / (1 + s) * torch.pi / 2) ** 2
    return f[1:] / f[0]
    # END


# %%
show_lines(
    range(1, T + 1),
    {"linear": alphas_cumprod, "cosine": cosine_alphas_cumprod(T)},
    "How much of the image is left",
    "t, from 1",
    "alpha-bar",
    height=2.6,
    alt="alpha-bar of the linear schedule drops early and is near 0 by step 700; the"
    " cosine falls almost linearly in the middle.",
)
half_way = (float(cosine_alphas_cumprod(T)[T // 2]), float(alphas_cumprod[T // 2]))
room.claim(
    "Half-way, about half of the variance is still the image's under the cosine"
    " schedule, and under the linear one less than a tenth.",
    value(half_way[0], "cosine").near(0.5, within=0.05)
    & (value(half_way[1], "linear") < 0.1),
)

# %%
steps = [0, 142, 285, 428, 571, 714, 857, 999]
strips = []
for a in (alphas_cumprod, cosine_alphas_cumprod(T)):
    for t in steps:
        strips.append(q_sample(images[3:4], torch.tensor([t]), fixed_noise, a.float()))
show_images(
    torch.cat(strips),
    [f"t = {t}" for t in steps] * 2,
    columns=8,
    title="Linear above, cosine below",
    alt="The same image at eight steps: the linear schedule is almost pure noise for"
    " the last three, the cosine for one.",
)

# %% [markdown]
# The betas that belong to Eq. 17 are $1 - \bar\alpha_t/\bar\alpha_{t-1}$, clipped at 0.999. The clip touches exactly one of them:

# %%
for n in (50, 100, 1000, 4000):
    clipped = int((cosine_betas(n) >= 0.999).sum())
    last_four = [round(float(beta), 4) for beta in cosine_betas(n)[-4:]]
    print(f"T = {n:4d}: {clipped} beta clipped; the last four are {last_four}")

# %% [markdown]
# ## 11 The noisy gradient
#
# Why not train on $L_\text{vlb}$ itself, if the likelihood is what we want? Because its terms differ by orders of magnitude. Draw
# $t$ evenly, and most draws contribute next to nothing while a few steps dominate.

# %%
vlb_model, _ = load_checkpoint("ddpm-16-cosine-vlb")
test_images = pixels_to_float(data.images("test", 512, 16, scale="large")["pixels"])
rng = torch.Generator().manual_seed(0)
t = torch.randint(0, T, (512,), generator=rng)
noise = torch.randn(test_images.shape, generator=rng)
with torch.no_grad():
    losses = cosine_process.vlb_loss(vlb_model, test_images, t, noise)
title = "One loss per image: T times its term of the bound"
fig, ax = room.figure(title, "t", "bits/dim", yscale="log", height=2.6)
ax.plot(t, losses, ".", markersize=3)
show(
    fig,
    "Losses of 512 images against the step, on a logarithmic scale.",
)
early, middle = losses[t < 20], losses[(t > 200) & (t < 800)]
room.claim(
    "The terms of the first twenty steps are the larger ones.",
    unpaired(early, middle, "bits/dim") > 0,
)

# %% [markdown]
# Now look at the far right: the last step is the one whose beta was clipped at 0.999. Eq. 12's weight is nearly
# $\beta_T/2(1-\beta_T)$ there.

# %%
at_the_end = torch.full((64,), T - 1)
noise = torch.randn(64, 3, 16, 16, generator=rng)
with torch.no_grad():
    last = cosine_process.vlb_loss(vlb_model, test_images[:64], at_the_end, noise)
last_beta = float(cosine_process.betas[-1])
print(f"Eq. 12's weight there is {last_beta / (2 * (1 - last_beta)):.0f}")
room.claim(
    "The last step's term is larger than those in the middle of the chain, by far.",
    unpaired(last, middle, "bits/dim") > 0,
)
unclipped = float(last.mean()) / T
room.claim(
    "Of the loss that the vlb run was trained on, this one step makes over a tenth of"
    " a bit. In the evaluation of section 8 it makes none: there the guess of the"
    " image is clipped.",
    (value(unclipped, "bits/dim in training") > 0.1)
    & (value(runs["cosine-vlb"]["details"]["terms"][-1], "in the evaluation") < 0.001),
)

# %% [markdown]
# So the figure mixes two things: the early steps that the section is about, and a numerical corner of the schedule. From here
# on we keep them apart.
#
# The cure is importance sampling: visit step $t$ with probability $p_t \propto \sqrt{\mathbb E[L_t^2]}$ and divide its
# term by $p_t$ (Eq. 18),
#
# $$L_\text{vlb} = \mathbb E_{t\sim p_t}\left[\frac{L_t}{p_t}\right]$$
#
# which leaves the expectation as it was. Why the root? Minimize the noise, $\mathbb E[L_t^2/p_t^2] = \sum_t \mathbb E[L_t^2]/p_t$,
# under $\sum_t p_t = 1$. Lagrange: $-\mathbb E[L_t^2]/p_t^2 + \lambda = 0$ for every $t$.
#
# `vlb_loss` returns $T L_t$, so in code the weight is $1/(T p_t)$. The losses are not known in advance, so the code keeps
# the last ten of every step. A share of 0.001 of the probability is spread evenly, so that no step is forgotten.
#
# ### Exercise: importance weights
#
# `history` is (T, k), the last k losses of every step. Return the probabilities and the weights $1/(T p_t)$, each of length
# T = `len(history)`. First normalize, then mix: a share `uniform` of the probability is spread evenly over all steps.
#
# <details><summary>Hint 1: the idea</summary>
# The root of the mean square of each row, made to add up to 1; then the mixture with the even distribution.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>p = (1 - uniform) * spread / spread.sum() + uniform / len(spread)</code>
# </details>


# %% exercise: importance weights
@exercise("ddpm.importance_weights")
def importance_weights(history, uniform=0.001):
    """Eq. 18: probabilities (T,) and weights (T,) from the recent losses (T k)"""
    # SOLUTION
    spread = history.square().mean(1).sqrt()
    p = (1 - uniform) * spread / spread.sum() + uniform / len(spread)
    return p, 1 / (len(p) * p)
    # END


# %% [markdown]
# Two objectives, one network: how large are their terms at every step? By Eq. 18, drawing $t$ evenly instead of by $p_t$ multiplies the mean
# square of the loss by $\overline{L^2}/\overline{L}^2$, means over the steps. It is 1 where all terms are alike.

# %%
from functools import partial

from course_lib.metrics import objective_noise, step_losses

objectives = {
    "L_vlb": partial(cosine_process.vlb_loss, hybrid),
    "L_simple": partial(cosine_process.loss, hybrid),
    "L_hybrid": partial(cosine_process.hybrid_loss, hybrid),
}
histories = {}
for name in ("L_vlb", "L_simple"):
    histories[name] = step_losses(objectives[name], test_images, T)
histories["L_hybrid"] = histories["L_simple"] + 0.001 * histories["L_vlb"]  # Eq. 16

# %%
by_step = {
    name: histories[name].square().mean(1).sqrt() for name in ("L_vlb", "L_simple")
}
show_lines(
    range(1, T + 1),
    by_step,
    "Root mean square loss of every step, at one network",
    "t, from 1",
    "loss",
    xscale="log",
    yscale="log",
    height=2.6,
    alt="The losses of L_vlb and of L_simple against the step, on logarithmic scales.",
)


# %%
def unevenness(terms):
    return float(terms.square().mean() / terms.mean() ** 2)


uneven = {name: unevenness(terms[:-1]) for name, terms in by_step.items()}
room.claim(
    "Without the last step, the terms of L_vlb are more uneven than those of L_simple,"
    " whose largest is no more than about 1.",
    ordered({"L_simple": uneven["L_simple"], "L_vlb": uneven["L_vlb"]})
    & (value(float(by_step["L_simple"].max()), "at most in L_simple") < 1.2),
)

# %% [markdown]
# The *gradient noise scale* is the batch size at which noise and signal are equally strong: the larger, the
# noisier. Here it is for both of the paper's objectives, with $t$ drawn evenly and by importance, and for $L_\text{vlb}$ also without the
# last step. The true gradient is the same for both ways of drawing, so the calmer of the two is used to estimate it.
# Figure 7 of the paper measures each objective along its own training; this is one network, at the end of its training on
# $L_\text{hybrid}$.
#
# **Predict first:** for which of the two objectives does importance sampling help?

# %%
network_weights = list(hybrid.requires_grad_(True).parameters())
rows = {"L_vlb": T, "L_vlb, not the last": T - 1, "L_hybrid": T}  # of so many steps
noise_scales = {}
last_chance = {}
for name, steps in rows.items():
    loss = objectives[name.split(",")[0]]
    p_importance, _ = importance_weights(histories[name.split(",")[0]][:steps])
    last_chance[name] = float(p_importance[-1])
    chances = [torch.ones(steps) / steps, p_importance]
    even, importance = (
        objective_noise(loss, network_weights, test_images, p) for p in chances
    )
    signal = min(even, importance).signal
    noise_scales[name] = (even.noise / signal, importance.noise / signal)
    for how, scale in zip(("evenly", "by importance"), noise_scales[name], strict=True):
        print(f"{name:20s} t {how:14s} gradient noise scale {scale:12,.0f}")

# %%
gains = {name: even / importance for name, (even, importance) in noise_scales.items()}
room.claim(
    "Of all draws by importance, over a fifth go to the last step, of a thousand.",
    value(last_chance["L_vlb"], "of the draws") > 0.2,
)
room.claim(
    "Importance sampling calms L_vlb. Most of what it seems to gain is that one step.",
    (value(gains["L_vlb"], "times less noise") > 1)
    & (value(gains["L_vlb, not the last"], "times without the last step") > 5)
    & (value(gains["L_vlb"] / gains["L_vlb, not the last"], "between them") > 2),
)

# %% [markdown]
# ## 12 Fewer steps
#
# A thousand network calls per image is slow. The trained network knows every step, so visit only some of them. What
# must stay is $\bar\alpha$: at a kept step the image is as noisy as the network expects. The betas follow (Eq. 19): with
# $S_1 < S_2 < \dots$ the kept steps,
#
# $$\beta_{S_i} = 1 - \frac{\bar\alpha_{S_i}}{\bar\alpha_{S_{i-1}}}$$
#
# ### Exercise: respacing
#
# `kept` holds the steps to visit, in increasing order. Return their betas. Before the first of them there is no noise.
#
# <details><summary>Hint 1: the idea</summary>
# Look up alpha-bar at the kept steps; then every entry is compared with the one before it, the first with 1.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>torch.cat([torch.ones_like(a[:1]), a[:-1]])</code> shifts a vector by one.
# </details>


# %% exercise: respacing
@exercise("ddpm.respace")
def respace(betas, kept):
    """Eq. 19: the betas (k,) of the chain that visits only the kept steps.

    betas: (T,); kept: (k,)
    """
    # SOLUTION
    a = (1 - betas).cumprod(0)[kept]
    return 1 - a / torch.cat([torch.ones_like(a[:1]), a[:-1]])
    # END


# %%
kept = improved_ddpm.strided_steps(T, 10)
print("kept steps   ", kept.tolist())
print("their betas  ", [round(float(beta), 3) for beta in respace(betas, kept)])

# %% [markdown]
# With a learned variance the network also knows how much noise a *long* step should leave. DDIM is another way to walk:
# it adds no noise at all (J. Song et al. 2021), so every step can be long. It also visits other steps: evenly spaced from
# 0 (for 10 steps 0, 100, ..., 900), which leaves out the last one, where nothing of the image is left. Try both samplers;
# the number in the title was measured on 512 samples. It is the Fréchet distance: the distance between two normals fitted
# to the features of samples and of test images (section 13 says which features); 0 means equal.


# %%
def fewer_steps(steps, sampler):
    curves = runs["cosine-hybrid"]["details"]["curves"]
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    if sampler == "DDIM":
        scores = curves["ddim"]
        chain = cosine_process.respaced(steps, improved_ddpm.ddim_steps)
        x = chain.sample(hybrid, x, eta=0.0, generator=rng)
    else:
        scores = curves["ddpm"]
        x = cosine_process.respaced(steps).sample(hybrid, x, generator=rng)
    distance = scores[curves["steps"].index(steps)]["frechet"]
    title = f"{sampler}, {steps} steps: Fréchet distance {distance:.1f}"
    return room.image_grid(x, columns=8, title=title)


explore(fewer_steps, steps=[10, 5, 25, 50, 100], sampler=["ancestral", "DDIM"])

# %%
distances = {}
for name in ("linear-simple", "cosine-hybrid"):
    curves = runs[name]["details"]["curves"]
    distances[f"{name}, ancestral"] = [scores["frechet"] for scores in curves["ddpm"]]
    distances[f"{name}, DDIM"] = [scores["frechet"] for scores in curves["ddim"]]
show_lines(
    curves["steps"],
    distances,
    "Quality against the number of steps",
    "steps",
    "Fréchet distance (less is better)",
    xscale="log",
    yscale="log",
    alt="Fréchet distance against the number of steps, two models and two samplers.",
)

# %%
at_10, at_100 = curves["steps"].index(10), curves["steps"].index(100)
few, many = (
    {name: scores[i] for name, scores in distances.items()} for i in (at_10, at_100)
)
room.claim(
    "With 10 steps DDIM is better, for both models.",
    (single(few["linear-simple, DDIM"], few["linear-simple, ancestral"]) < 0)
    & (single(few["cosine-hybrid, DDIM"], few["cosine-hybrid, ancestral"]) < 0),
)
room.claim(
    "With 100 steps the ancestral sampler is better for cosine-hybrid, whose DDIM"
    " samples are worse than with 10. For linear-simple DDIM is still the better one.",
    (single(many["cosine-hybrid, ancestral"], many["cosine-hybrid, DDIM"]) < 0)
    & (single(many["cosine-hybrid, DDIM"], few["cosine-hybrid, DDIM"]) > 0)
    & (single(many["linear-simple, DDIM"], many["linear-simple, ancestral"]) < 0),
)

# %% [markdown]
# In the paper, $L_\text{hybrid}$ models come near their best FID with 100 of 4000 steps, and DDIM is better below 50
# (Figure 8). Where do our curves cross, if they do? And how would you find out whether it matters to DDIM that its first step is
# 900 when there are 10 of them, and 990 when there are 100?

# %% [markdown]
# ## 13 A GAN for comparison
#
# A generative adversarial network draws an image in a single pass: a generator tries to fool a discriminator. The
# second paper compares with GANs by *precision* (how many samples look like data) and *recall* (how much of the data
# looks like some sample). Both are measured in the feature space of a network that knows the data: a point counts as inside a
# set when it is no farther from a member than that member's third-nearest neighbour in the set.
#
# The paper uses Inception's features. Ours are those of the world's judge, a small network that reads shape and
# colour, so the numbers can be compared with each other but not with the paper's.

# %%
gan, _ = load_checkpoint("dcgan-16")
rng = torch.Generator().manual_seed(0)
start = torch.randn(16, 3, 16, 16, generator=rng)
gan_samples = gan.sample(16, rng)
diffusion_samples = cosine_process.respaced(100).sample(hybrid, start, generator=rng)
show_images(
    torch.cat([test_images[:16], gan_samples, diffusion_samples]),
    columns=16,
    title="Test images, the GAN, the diffusion model",
    alt="Three rows of images: the first from the test set, the second by the GAN, the"
    " third by diffusion.",
)

# %%
from course_lib.training.recipes.ddpm import compare_sets

others = pixels_to_float(data.images("train", 512, 16, scale="large")["pixels"])
limit = {"metrics": compare_sets(test_images, others)}
print(f"{'':16s}{'precision':>10s}{'recall':>10s}{'Frechet':>10s}{'recognized':>12s}")
compared = {"other images": limit, "dcgan": results("dcgan-16"), **runs}
for name, run in compared.items():
    scores = run["metrics"]
    print(f"{name:16s}{scores['precision']:10.2f}{scores['recall']:10.2f}", end="")
    print(f"{scores['frechet']:10.2f}{scores['recognised']:12.0%}")

# %%
gan_scores = results("dcgan-16")["metrics"]
scattered = runs["linear-vlb"]["metrics"]


def of_512(measure, first, second):
    """Compare two shares of 512 images."""
    hits = [round(512 * scores[measure]) for scores in (first, second)]
    return shares(hits[0], 512, hits[1], 512)


room.claim(
    "Recall is saturated here: even the linear vlb run, whose Fréchet distance is"
    " worse than the GAN's, has a higher recall than real images.",
    (of_512("recall", scattered, limit["metrics"]) > 0)
    & (single(scattered["frechet"], gan_scores["frechet"]) > 0),
)
room.claim(
    "And the GAN is less precise than cosine-hybrid: not the paper's order.",
    of_512("precision", gan_scores, runs["cosine-hybrid"]["metrics"]) < 0,
)

# %% [markdown]
# Every row compares 512 images with the same 512 test images; *other images* are real ones, from the training set.
# *Recognized* is the share of samples of whose shape and colour the judge is at least 90% sure. In the paper,
# class-conditional on ImageNet at 64 pixels, BigGAN-deep has precision 0.86 and recall 0.59, the large diffusion model
# 0.82 and 0.71: nearly as precise, covering more, and with the better FID (2.92 against 4.06 in the paper).
#
# By definition a sample that is far from all others has a huge ball around it. Whatever falls into the ball counts for recall.

# %% [markdown]
# ## 14 Scaling
#
# The paper trains four sizes and finds that FID falls with training compute along a power law towards a constant, while
# the likelihood improves less regularly. Here are three widths of our network, trained for equally many steps.

# %%
from torch.utils.flop_counter import FlopCounterMode


def training_flops(recipe):
    """Count the operations of a training run; backward costs twice the forward."""
    with FlopCounterMode(display=False) as counter:
        recipe.build().model(torch.zeros(1, 3, 16, 16), torch.zeros(1))
    return 3 * counter.get_total_flops() * recipe.batch_size * recipe.steps


scaling = [find_recipe(f"ddpm-16-width-{width}") for width in (8, 16, 24)]
compute = [training_flops(recipe) for recipe in scaling]
bits_per_dim = [results(recipe.name)["metrics"]["bits_per_dim"] for recipe in scaling]
frechet = [results(recipe.name)["metrics"]["frechet"] for recipe in scaling]

# %%
fig, (left, right) = room.figure(
    "More compute", "training compute, FLOP", columns=2, height=2.6, xscale="log"
)
left.plot(compute, bits_per_dim, "o-")
left.set(ylabel="bits/dim")
left.xaxis.set_minor_formatter("")
right.plot(compute, frechet, "o-", color="#E69F00")
right.set(ylabel="Fréchet distance", yscale="log")
right.xaxis.set_minor_formatter("")
show(
    fig,
    "Two panels: bits per dimension and Fréchet distance of three widths against"
    " training compute.",
)
widths = ("width 24", "width 16", "width 8")
falling = ordered(dict(zip(widths, reversed(frechet), strict=True)))
room.claim("The Fréchet distance falls with compute.", falling)
room.claim(
    "So do the bits per dimension.",
    ordered(dict(zip(widths, reversed(bits_per_dim), strict=True))),
)

# %% [markdown]
# ## 15 Scorecard
#
# First what is exact: sizes and schedules.

# %%
from course_lib.classroom import parameters, row

cifar = parameters("ddpm/CIFAR-10")
imagenet = parameters("improved_ddpm/ImageNet-64")
learned = parameters("improved_ddpm/CIFAR-10")
fixed = parameters("improved_ddpm/CIFAR-10 fixed variance")
grey = torch.full((1, 3, 16, 16), 0.5)  # its mean square is 0.25
prior_bits = float(improved_ddpm.ImprovedDiffusion(betas).prior_bits(grey))
exact_rows = [
    row("Parameters, DDPM on CIFAR-10", paper="35.7M", code=cifar),
    row("Parameters, Improved DDPM on ImageNet-64", paper="120M", code=imagenet),
    row("Parameters that a learned variance costs", code=learned - fixed),
    row("L_T, linear schedule", paper="about 1e-5 bits/dim", code=f"{prior_bits:.2e}"),
    row("alpha-bar at the end, linear", code=f"{float(alphas_cumprod[-1]):.2e}"),
]
room.scorecard(exact_rows, title="Exact")

# %% [markdown]
# Then the likelihoods. The paper's numbers are from its Table 2 (CIFAR-10, 500,000 steps; dropout 0.1 with the linear
# schedule, 0.3 with the cosine), here NLL / FID:
#
# | T | schedule | objective | NLL | FID |
# |---|---|---|---|---|
# | 1000 | linear | simple | 3.73 | 3.29 |
# | 4000 | linear | simple | 3.37 | 2.90 |
# | 4000 | linear | hybrid | 3.26 | 3.07 |
# | 4000 | cosine | simple | 3.26 | 3.05 |
# | 4000 | cosine | hybrid | 3.17 | 3.19 |
# | 4000 | cosine | vlb | 2.94 | 11.47 |
#
# In the paper more steps alone gain 0.36 bits, and fewer bits do not mean a lower FID. Ours have $T = 1000$ and no dropout. Two of our
# runs are compared on the same 128 images with the same noise, and a trend counts as shown when the mean difference exceeds
# twice its standard error: over images, since each run has one seed.


# %%
def fewer_bits(better, worse, paper):
    """Make a row: does the run `better` need fewer bits than the run `worse`?"""
    low = runs[better]["details"]["totals"]
    high = runs[worse]["details"]["totals"]
    return row(f"{better} below {worse}", paper=paper, shown=paired(low, high) < 0)


bits_rows = [
    fewer_bits("linear-hybrid", "linear-simple", "3.26 < 3.37"),
    fewer_bits("cosine-hybrid", "cosine-simple", "3.17 < 3.26"),
    fewer_bits("cosine-simple", "linear-simple", "3.26 < 3.37"),
    fewer_bits("cosine-hybrid", "linear-hybrid", "3.17 < 3.26"),
    fewer_bits("cosine-vlb", "cosine-hybrid", "2.94 < 3.17"),
    fewer_bits("cosine-vlb", "linear-vlb", "not tabulated"),
]
room.scorecard(bits_rows, title="Bits per dimension")

# %% [markdown]
# The last row is our own question: the paper trains on $L_\text{vlb}$ only with the cosine schedule.

# %%
linear_bits = runs["linear-vlb"]["details"]["totals"]
cosine_bits = runs["cosine-vlb"]["details"]["totals"]
room.claim(
    "With L_vlb the linear schedule needs fewer bits: not what the schedule does to"
    " the other objectives.",
    paired(linear_bits, cosine_bits) < 0,
)
vlb_history = step_losses(partial(cosine_process.vlb_loss, vlb_model), test_images, T)
vlb_chances, _ = importance_weights(vlb_history)
room.claim(
    "The cosine run spends draws on the clipped last step, which no evaluation sees:"
    " far more than one in a thousand.",
    value(float(vlb_chances[-1]), "of its draws") > 0.03,
)

# %% [markdown]
# Is that the cause? The control, a cosine run without that step, has not been trained.
#
# And the rest: rate, gradient noise, samples.

# %%
vlb_even, _ = noise_scales["L_vlb, not the last"]
hybrid_even, _ = noise_scales["L_hybrid"]
gradient_rows = [
    row("Share of the rate in the last 100 steps", paper="over 93%",
        shown=value(float(last_hundred)) > 0.9),
    row("Gradient noise of L_vlb over L_hybrid", paper="orders of magnitude",
        shown=value(vlb_even / hybrid_even, "times, one network") > 10),
    row("Importance sampling is no help for L_hybrid", paper="not helpful",
        shown=value(gains["L_hybrid"], "times less noise") < 1.5),
    row("Importance sampling calms L_vlb", paper="yes",
        shown=value(gains["L_vlb, not the last"], "times less noise") > 1),
]

# %%
hybrid_scores = runs["cosine-hybrid"]["metrics"]
vlb_scores = runs["cosine-vlb"]["metrics"]
sample_rows = [
    row("Samples: vlb worse than hybrid", paper="FID 11.47 > 3.19",
        shown=single(vlb_scores["frechet"], hybrid_scores["frechet"]) > 0),
    row("Few steps: DDIM better than ancestral", paper="below 50",
        shown=single(few["cosine-hybrid, DDIM"], few["cosine-hybrid, ancestral"]) < 0),
    row("Recall: diffusion above the GAN", paper="0.71 > 0.59",
        shown=of_512("recall", hybrid_scores, gan_scores) > 0),
    row("Precision: the GAN above diffusion", paper="0.86 > 0.82",
        shown=of_512("precision", gan_scores, hybrid_scores) > 0),
    row("Fréchet distance falls with compute", paper="a power law", shown=falling),
]
room.scorecard([*gradient_rows, *sample_rows], "Rate, gradients, samples")

# %% [markdown]
# The paper's models train for 200,000 to 1,500,000 steps, ours for a few thousand on images of 16 pixels, one run each. Recall is
# saturated (section 13). Why a trend is not shown here has not been measured.

# %% [markdown]
# ## 16 Think further
#
# <details><summary>Why did DDPM have good samples and a poor likelihood at the same time?</summary>
# The papers' explanation: L_simple drops the weight of Eq. 12, which is large at the first steps. So the network spends its capacity on
# large structures, which decide how samples look, and neglects the imperceptible detail on which most bits are spent. The fixed
# variance is also wrong exactly there. The control of section 6 tests the first half of this, in the plane.
# </details>
#
# <details><summary>Why does the bound teach only the variance in the hybrid loss, and why is its weight so small?</summary>
# The gradient of the bound is noisy. Confined to the variance, it cannot disturb the noise prediction directly, and the
# small weight keeps the two parts from competing for the shared layers of the network.
# </details>
#
# <details><summary>If the offset s of the cosine schedule were 0, what would go wrong?</summary>
# The first betas would be so small that x_1 and x_0 differ by a fifth of one pixel value (T = 1000). Predicting noise
# that faint is hard.
# </details>
#
# <details><summary>Importance sampling makes the gradient of the bound calmer. Why does it not help the hybrid?</summary>
# Look at the two curves of section 11. The terms of L_simple fall by orders of magnitude too, but smoothly, and none is
# above about 1. The bound's are more uneven, but its part of the hybrid is small and reaches the network only through the variance.
# </details>
#
# <details><summary>A GAN draws in one pass, diffusion in a hundred. When would you still want diffusion?</summary>
# When all of the data must be covered, when a likelihood is needed, or when training must be stable: the loss is
# a regression, with no adversary.
# </details>
#
# **Read on:** Sohl-Dickstein et al. 2015 (where it began), J. Song et al. 2021 (DDIM), Y. Song et al. 2021 (score-based
# models, the same thing in continuous time), Dhariwal and Nichol 2021 (guidance by a classifier), Karras et al. 2022 (EDM,
# which chapter 08 uses).
#
# **What comes next:** chapter 02 leaves generation for a moment, to meet the architecture that all later chapters are built from.

# %%
room.quiz("ddpm")

# %%
room.flashcards("ddpm")

# %%
room.progress()
