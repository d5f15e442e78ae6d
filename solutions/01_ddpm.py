# %% [markdown]
# # 01 Denoising diffusion: DDPM and Improved DDPM
#
# At the end of this chapter you can make pictures like these out of nothing but noise, say how many bits your
# model needs for a picture it has never seen, and explain what each term of its loss is for.

# %%
import math

import torch
from torch import nn

import course_lib.classroom as room
from course_lib import data, metrics
from course_lib.classroom import exercise, explore, show, show_images, show_lines, slider
from course_lib.diffusion import cosine_betas, linear_betas
from course_lib.papers import ddpm, improved_ddpm
from course_lib.training import find_recipe, load_checkpoint, results
from course_lib.world import pixels_to_float
from course_lib.zoo import build

# %%
dreamer, made = load_checkpoint("ddpm-32")
process = find_recipe("ddpm-32").diffusion.respaced(100)
noise = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))
dreams = process.sample(dreamer, noise, generator=torch.Generator().manual_seed(0))
show_images(dreams, columns=8, alt="Pictures drawn by the network: single coloured objects on patterned floors.")
print(f"after {made['steps']:,} steps, {made['seconds'] / 60:.0f} minutes on {made['device']}")

# %% [markdown]
# **You will** derive DDPM in full (Ho, Jain and Abbeel 2020, arXiv 2006.11239), write the twelve central functions of this paper and the next,
# train it on this machine in a minute, and then follow Nichol and Dhariwal (2021, arXiv 2102.09672) as they find
# out why its likelihood was poor and mend it.
#
# **You need** the chain rule, Bayes' theorem, the density of a normal distribution, and a little PyTorch.
#
# **Time** about four hours with the exercises; running everything takes about two minutes.

# %% [markdown]
# ## 1 The problem
#
# Here is one picture of the little world, sixteen pixels wide, and next to it the same picture with more and more
# noise. Going right is easy: anyone can add noise. A *generative* model goes left. If we could undo one small step
# of noise at a time, we could start from pure noise and walk all the way back to a picture.
#
# **Predict first:** at which of these would you give up guessing the colour of the object?

# %%
photos = pixels_to_float(data.images("test", 16, 16, scale="large")["pixels"])  # b c h w, in [-1, 1]
photo, hiss = photos[:1], torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
levels = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0]
noisy = torch.cat([(1 - level) ** 0.5 * photo + level**0.5 * hiss for level in levels])
show_images(
    noisy,
    [f"{level:.0%} noise" for level in levels],
    columns=8,
    alt="One picture under eight growing amounts of noise; the last is noise alone.",
)

# %% [markdown]
# The object's colour outlives its outline, and its outline outlives the pattern of the floor. Keep that in mind:
# most of what makes a picture recognisable is decided while it is still very noisy, but most of the *bits* are
# spent at the very end of the way back, on detail you hardly see.

# %% [markdown]
# ## 2 The forward process
#
# The forward process adds a little Gaussian noise $T$ times, with variances $\beta_1, \dots, \beta_T$ fixed in advance
# (Eq. 2):
#
# $$q(x_t \mid x_{t-1}) = \mathcal N\!\left(x_t;\ \sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\right)$$
#
# The factor $\sqrt{1-\beta_t}$ shrinks the picture just enough that the total variance stays 1 if it was 1.
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
T = 1000
betas = linear_betas(T).float()  # from 1e-4 to 0.02
alphas_cumprod = torch.cumprod(1 - betas, dim=0)  # alpha-bar
print(
    f"alpha-bar: first {alphas_cumprod[0]:.4f}, middle {alphas_cumprod[T // 2 - 1]:.4f}, last {alphas_cumprod[-1]:.2e}"
)

# %% [markdown]
# Steps count from 0 in code: `t = 0` is the paper's $t = 1$, and `alphas_cumprod[t]` is the entry that belongs to it. `T`,
# `betas` and `alphas_cumprod` are this notebook's own chain. Inside your functions use only the parameters: the checks use
# shorter chains.
#
# ### Exercise: jump to step t
#
# Write Eq. 4. `t` holds one step per sample, so each gets its own amount of noise. Samples are pictures (b c h w) here, and
# points in the plane (b 2) in section 6.
#
# <details><summary>Hint 1: the idea</summary>
# Look up alpha-bar for every sample, give it as many axes of length 1 as <code>x_start</code> has after the first, and remember
# which of its powers is a standard deviation.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>a = alphas_cumprod[t].reshape(-1, *[1] * (x_start.ndim - 1))</code> has shape (b, 1, 1, 1) for pictures and
# (b, 1) for points.
# </details>


# %% exercise: jump to step t
@exercise("ddpm.q_sample")
def q_sample(x_start, t, noise, alphas_cumprod):
    """Eq. 4: x_t from x_0 in one jump.  x_start, noise: (b ...); t: (b,); alphas_cumprod: (T,)"""
    # SOLUTION
    a = alphas_cumprod[t].to(x_start).reshape(-1, *[1] * (x_start.ndim - 1))
    return a.sqrt() * x_start + (1 - a).sqrt() * noise
    # END


# %% [markdown]
# The function is used at once: the same six pictures at any step, on two schedules. Move the slider. The cosine
# schedule is explained in section 10; for now, find the step at which each schedule has destroyed the object.

# %%
schedules = {"linear": linear_betas(T), "cosine": cosine_betas(T)}


def noise_level(t, schedule):
    a = (1 - schedules[schedule]).cumprod(0)
    static = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    x_t = q_sample(photos[:6], torch.full((6,), t), static, a.float())
    return room.image_grid(x_t, columns=6, title=f"{schedule} schedule, t = {t}: alpha-bar = {a[t]:.4f}")


explore(noise_level, t=slider(0, T - 1, 60, label="step t"), schedule=["linear", "cosine"])

# %% [markdown]
# ## 3 The way back, if you knew the picture
#
# Going back one step from $x_t$ alone is hard: it depends on what pictures there are. But if you also know $x_0$, Bayes'
# theorem answers it exactly. The chain is Markov, so $q(x_t \mid x_{t-1}, x_0) = q(x_t \mid x_{t-1})$ and
#
# $$q(x_{t-1} \mid x_t, x_0) = \frac{q(x_t \mid x_{t-1})\; q(x_{t-1} \mid x_0)}{q(x_t \mid x_0)}$$
#
# Every factor is a normal density. As a function of $x_{t-1}$, the exponent is $-\tfrac12$ times
#
# $$\frac{(x_t - \sqrt{\alpha_t}\,x_{t-1})^2}{\beta_t} + \frac{(x_{t-1} - \sqrt{\bar\alpha_{t-1}}\,x_0)^2}{1-\bar\alpha_{t-1}} + \text{const}
# = \Big(\underbrace{\tfrac{\alpha_t}{\beta_t} + \tfrac{1}{1-\bar\alpha_{t-1}}}_{1/\tilde\beta_t}\Big) x_{t-1}^2 -
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
# Return the mean, shaped like `x_t`, and the variance, shaped (b, 1, ...) so that it multiplies a picture.
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
    """Eq. 6, 7: mean (b ...) and variance (b 1 ...) of q(x_{t-1} | x_t, x_0).  betas: (T,)"""
    # SOLUTION
    alphas_cumprod = (1 - betas).cumprod(0)
    previous = torch.cat([torch.ones_like(betas[:1]), alphas_cumprod[:-1]])
    of_x_start = previous.sqrt() * betas / (1 - alphas_cumprod)
    of_x_t = (1 - betas).sqrt() * (1 - previous) / (1 - alphas_cumprod)
    variance = betas * (1 - previous) / (1 - alphas_cumprod)
    shape = (-1, *[1] * (x_t.ndim - 1))
    mean = of_x_start[t].to(x_t).reshape(shape) * x_start + of_x_t[t].to(x_t).reshape(shape) * x_t
    return mean, variance[t].to(x_t).reshape(shape)
    # END


# %% [markdown]
# You can check Bayes' theorem by brute force, with no theorem at all: run the chain many times from one $x_0$, keep
# the runs that happen to pass close to one chosen value at step $t$, and see where they came from.

# %%
step, x0, n = 60, 0.8, 400_000
rng = torch.Generator().manual_seed(0)
hidden = q_sample(torch.full((n, 1), x0), torch.full((n,), step - 1), torch.randn(n, 1, generator=rng), alphas_cumprod)
beta = float(betas[step])
seen = (1 - beta) ** 0.5 * hidden + beta**0.5 * torch.randn(n, 1, generator=rng)  # one more step
chosen = hidden[(seen - 0.5).abs() < 0.01]  # the runs that arrive near 0.5
mean, variance = posterior_mean_variance(torch.tensor([[x0]]), torch.tensor([[0.5]]), torch.tensor([step]), betas)

# %%
grid = torch.linspace(0.25, 0.75, 200)
normal = torch.distributions.Normal(mean[0], variance[0].sqrt())
fig, ax = room.figure("Where did the runs that reach x_t = 0.5 come from?", "x_{t-1}", "density")
ax.hist(chosen.numpy(), bins=60, density=True, color="#56B4E9", label=f"{len(chosen):,} of {n:,} runs")
ax.plot(grid, normal.log_prob(grid).exp(), label="Eq. 6 and 7")
ax.legend()
show(fig, "A histogram of simulated values of x_{t-1} with the normal density of Eq. 7 drawn through it.")

# %% [markdown]
# The curve was not fitted to the histogram: it is your formula. And at the very first step $\tilde\beta = 0$: $x_0$ is known, so
# nothing is left to guess.
#
# ### Exercise: the picture behind the noise
#
# A network will tell us the noise in $x_t$. Turn that into a guess of the picture: solve Eq. 4 for $x_0$ (DDPM
# Eq. 15). No clamping.
#
# <details><summary>Hint 1: the idea</summary>
# x_t is a weighted sum of picture and noise. Take the noise away, then undo the shrinking.
# </details>
# <details><summary>Hint 2: the line</summary>
# With <code>a</code> as in the first exercise: subtract <code>(1 - a).sqrt() * eps</code>, then divide.
# </details>


# %% exercise: the picture behind the noise
@exercise("ddpm.predict_x_start")
def predict_x_start(x_t, t, eps, alphas_cumprod):
    """Eq. 15: x_0 from x_t and its noise.  x_t, eps: (b ...); t: (b,); alphas_cumprod: (T,)"""
    # SOLUTION
    a = alphas_cumprod[t].to(x_t).reshape(-1, *[1] * (x_t.ndim - 1))
    return (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    # END


# %% [markdown]
# ## 4 The bound
#
# The model is a chain in the other direction, $p_\theta(x_{0:T}) = p(x_T)\prod_t p_\theta(x_{t-1}\mid x_t)$ with $p(x_T) = \mathcal N(0, I)$ and
# $p_\theta(x_{t-1}\mid x_t) = \mathcal N(\mu_\theta(x_t,t), \sigma_t^2 I)$. Its likelihood is an integral over all noisy pictures, which nobody
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
# $L_T$ has nothing to learn. Each $L_{t-1}$ asks the network to step back as Bayes would, had it known $x_0$.
#
# The KL between two normals follows in one line. $\log \mathcal N_1 - \log \mathcal N_2$ is
# $\tfrac12\log\tfrac{\sigma_2^2}{\sigma_1^2} - \tfrac{(x-\mu_1)^2}{2\sigma_1^2} + \tfrac{(x-\mu_2)^2}{2\sigma_2^2}$; under $x\sim\mathcal N_1$ the mean of the second term is $-\tfrac12$
# and of $(x-\mu_2)^2$ is $\sigma_1^2 + (\mu_1-\mu_2)^2$:
#
# $$\mathrm{KL}(\mathcal N_1\|\mathcal N_2) = \tfrac12\left[\log\frac{\sigma_2^2}{\sigma_1^2} - 1 + \frac{\sigma_1^2}{\sigma_2^2} + \frac{(\mu_1-\mu_2)^2}{\sigma_2^2}\right]$$
#
# ### Exercise: the KL between normals
#
# The inputs are *log variances*, so that no variance can come out negative. Element by element, in nats.
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
    """KL(N1 || N2), element by element, in nats.  All four of one shape."""
    # SOLUTION
    d = log_variance2 - log_variance1
    return 0.5 * (d - 1 + torch.exp(-d) + (mean1 - mean2) ** 2 * torch.exp(-log_variance2))
    # END


# %% [markdown]
# ## 5 Predict the noise
#
# The network could predict $\tilde\mu_t$ directly. DDPM's choice is to predict the noise. Put Eq. 15 into the mean of Eq. 7 and
# collect. With $\bar\alpha_t = \alpha_t\bar\alpha_{t-1}$ and the identity above Eq. 7, the weight of $x_t$ becomes
#
# $$\frac{\sqrt{\bar\alpha_{t-1}}\beta_t}{(1-\bar\alpha_t)\sqrt{\bar\alpha_t}} + \frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}
# = \frac{\beta_t + \alpha_t(1-\bar\alpha_{t-1})}{(1-\bar\alpha_t)\sqrt{\alpha_t}} = \frac{1}{\sqrt{\alpha_t}}$$
#
# and that of the noise $-\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\sqrt{\frac{1-\bar\alpha_t}{\bar\alpha_t}} = -\frac{1}{\sqrt{\alpha_t}}\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}$. Hence (Eq. 11)
#
# $$\mu_\theta(x_t, t) = \frac{1}{\sqrt{\alpha_t}}\left(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\varepsilon_\theta(x_t,t)\right)$$
#
# With a fixed $\sigma_t$ only the means depend on the network; all else is a constant $C$. So $L_{t-1}$ is a weighted squared
# error of the noise (Eq. 12):
#
# $$L_{t-1} - C = \mathbb E\left[\frac{\beta_t^2}{2\sigma_t^2\alpha_t(1-\bar\alpha_t)}\,\big\|\varepsilon - \varepsilon_\theta(x_t, t)\big\|^2\right]$$

# %%
weight = betas / (2 * (1 - betas) * (1 - alphas_cumprod))  # Eq. 12 with sigma^2 = beta
show_lines(
    range(1, T + 1),
    {"weight": weight},
    "What Eq. 12 multiplies the squared error with",
    "t",
    "weight",
    xscale="log",
    yscale="log",
    height=2.4,
    alt="The weight falls from 0.5 at the first step to 0.005 near step 350, then rises to 0.01.",
)

# %% [markdown]
# The true weight is fifty to a hundred times larger at the very first step than in the middle of the chain. There the noise
# is so faint that no eye would see it, and finding it is the hardest. DDPM drops the weight altogether (Eq. 14):
#
# $$L_\text{simple} = \mathbb E_{t, x_0, \varepsilon}\,\big\|\varepsilon - \varepsilon_\theta\big(\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon,\ t\big)\big\|^2$$
#
# That made the samples better and the likelihood worse. Half of this chapter is about that trade.
#
# ### Exercise: the simple loss
#
# Return one loss per sample: the mean squared error over the sample's own values. (Eq. 14 has the squared norm, a sum; the
# mean differs by a constant factor and does not grow with the picture.) Use your `q_sample`.
#
# <details><summary>Hint 1: the idea</summary>
# Make x_t, ask the model, compare with the noise you put in.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>.flatten(1).mean(1)</code> turns (b ...) into (b,).
# </details>


# %% exercise: the simple loss
@exercise("ddpm.simple_loss")
def simple_loss(model, x_start, t, noise, alphas_cumprod):
    """Eq. 14 for each sample, (b,).  model: (x_t, t) -> noise; x_start, noise: (b ...); t: (b,)"""
    # SOLUTION
    x_t = q_sample(x_start, t, noise, alphas_cumprod)
    return ((noise - model(x_t, t)) ** 2).flatten(1).mean(1)
    # END


# %% [markdown]
# ### Exercise: one step back
#
# Algorithm 2, line 4: the mean of Eq. 11 plus $\sigma_t z$, with $\sigma_t^2 = \beta_t$. `t` holds one step per
# sample; wherever it is 0, no noise is added. The function gets only betas: form alpha and alpha-bar first.
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
# Before pictures, something for which the truth is known: eight blobs in the plane. A mixture of normals stays a
# mixture of normals under Eq. 4, so its exact density, and even the *best possible* noise prediction
# $\mathbb E[\varepsilon \mid x_t]$, have closed forms. Your network can be compared with perfection.
#
# It is a small one, and its training loop is all there is to DDPM (Algorithm 1). Read it line by line.

# %%
from course_lib.diffusion import GaussianMixture
from course_lib.nn.embeddings import timestep_embedding

blobs = GaussianMixture.ring(components=8, radius=0.75, std=0.1)
short = linear_betas(100).float()  # T = 100 is enough in the plane
short_cumprod = torch.cumprod(1 - short, dim=0)


class PlaneNet(nn.Module):
    """The noise in points of the plane: an MLP that is told the time, in thousandths of the chain."""

    def __init__(self, width=128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2),
        )

    def forward(self, x, t):
        return self.layers(torch.cat([x, timestep_embedding(10 * t, 32)], dim=1))


# %%
torch.manual_seed(0)
plane_net, updates = PlaneNet(), 6000
optimiser = torch.optim.Adam(plane_net.parameters(), lr=4e-3)
slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, updates)
for _ in range(updates):
    x_start = blobs.sample(256)
    t = torch.randint(0, 100, (256,))
    loss = simple_loss(plane_net, x_start, t, torch.randn_like(x_start), short_cumprod).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    slower.step()
print(f"last loss {loss.item():.3f}")


# %% [markdown]
# Now walk back from noise with your `sample_step`, once with the network and once with the perfect prediction.


# %%
def walk_back(eps_of, n=1500):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    for step in reversed(range(100)):
        t = torch.full((n,), step)
        x = sample_step(x, t, eps_of(x, t), torch.randn_like(x), short)
    return x


def perfect(x, t):
    return blobs.best_eps(x, float(short_cumprod[t[0]]))


with torch.no_grad():
    walked = {
        "data": blobs.sample(1500),
        "your network": walk_back(plane_net),
        "perfect": walk_back(perfect),
    }
show(
    room.scatter_panels(walked, "Samples in the plane"),
    "Three panels of eight blobs on a ring: the data, the network's samples, the samples of the perfect denoiser.",
)

# %% [markdown]
# How good is the bound? Its terms are KLs between normals (your `normal_kl`), and for points in the plane $L_0$ is an
# ordinary normal density. Lay it beside the exact $-\log_2 p(x_0)$, in bits per dimension.
#
# **Predict first:** order the three numbers "exact", "bound with the perfect denoiser", "bound with your network".


# %%
def bound(eps_of, x_start, betas, variances=None):
    """L_0 to L_{T-1} of Eq. 5 on points in the plane, in bits per dimension (L_T is negligible)."""
    a, terms = torch.cumprod(1 - betas, dim=0), []
    log_tilde = ddpm.posterior_log_variance(betas).float()
    log_variance = (betas if variances is None else variances).log().float()
    for step in range(len(betas)):
        t = torch.full((len(x_start),), step)
        x_t = q_sample(x_start, t, torch.randn_like(x_start), a)
        guess = predict_x_start(x_t, t, eps_of(x_t, t), a)
        mean, _ = posterior_mean_variance(guess, x_t, t, betas)
        true_mean, _ = posterior_mean_variance(x_start, x_t, t, betas)
        if step > 0:
            terms.append(normal_kl(true_mean, log_tilde[t, None], mean, log_variance[t, None]).mean())
        else:
            terms.append(-torch.distributions.Normal(mean, (log_variance[0] / 2).exp()).log_prob(x_start).mean())
    return torch.stack(terms) / math.log(2)


# %%
points = blobs.sample(4000, torch.Generator().manual_seed(5))
exact = float(-blobs.log_prob(points).mean()) / 2 / math.log(2)
with torch.no_grad():
    best, yours = bound(perfect, points, short), bound(plane_net, points, short)
print(f"exact                      {exact:7.3f} bits per dimension")
print(f"bound, perfect denoiser    {best.sum():7.3f}")
print(f"bound, your network        {yours.sum():7.3f}")

# %% [markdown]
# This shows two things. First, where does your network lose against the perfect one?

# %%
lost = yours - best
show_lines(range(1, 101), {"your network": lost}, f"{lost[:5].sum() / lost.sum():.0%} is lost in the first five steps", "t",
           "bits/dim above perfect", xscale="log", height=2.4,
           alt="What the network loses against the perfect denoiser, by step: most of it in the first few steps.")

# %% [markdown]
# These are the steps to which $L_\text{simple}$ gives too little weight. Remember this picture in section 8.
#
# Second, the bound lies above the truth even for the perfect denoiser. Each step back is one normal of fixed variance,
# and the true step back is neither one normal nor of that variance. Does it help to take more, smaller steps? That
# depends on the variance.
#
# **Predict first:** which of $\sigma_t^2 = \beta_t$ and $\sigma_t^2 = \tilde\beta_t$ will close the gap?


# %%
def gap(n, tilde):
    """The bound of the perfect denoiser in n cosine steps, minus the truth."""
    chain = cosine_betas(n).float()
    a = torch.cumprod(1 - chain, dim=0)
    variances = ddpm.posterior_log_variance(chain).exp() if tilde else chain
    return float(bound(lambda x, t: blobs.best_eps(x, float(a[t[0]])), points, chain, variances).sum()) - exact


counts = [10, 20, 50, 100, 200]
gaps = {name: [gap(n, tilde) for n in counts] for name, tilde in (("beta", False), ("beta-tilde", True))}
show_lines(counts, gaps, "What fixed variances cost", "number of steps T", "bound minus truth, bits/dim",
           xscale="log", height=2.6, ylim=(0, 1.6),
           alt="With variance beta the gap shrinks towards zero as steps are added; with beta-tilde it hardly shrinks.")

# %% [markdown]
# More steps bring the true step back closer to a normal of variance $\beta_t$, so with it the gap closes. $\tilde\beta_t$ is the
# right variance only when $x_0$ is known. Section 9 returns to this.

# %% [markdown]
# ## 7 Train it here
#
# Now pictures. The network is a miniature of Improved DDPM's U-Net, which is DDPM's with small changes (time scales and
# shifts the norms). DDPM's own network, in the paper's size, has exactly as many parameters as the official one.

# %%
with torch.device("meta"):  # shapes without memory
    full = build("ddpm/CIFAR-10")
small = find_recipe("ddpm-live").build().model
print(f"ddpm/CIFAR-10 {sum(p.numel() for p in full.parameters()):>12,} parameters")
print(f"ours          {sum(p.numel() for p in small.parameters()):>12,}")

# %% [markdown]
# It trains for at most 60 seconds, on $L_\text{simple}$ with the linear schedule. The weights that are kept are a running
# average (EMA) of those that are trained, as in the paper.
#
# **Predict first:** which will be right first, the floor, the colour or the shape of the object?

# %%
trained = room.train_live("ddpm-live", seconds=60)

# %%
start = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(2))
linear = find_recipe("ddpm-live").diffusion
quick = linear.respaced(250)  # 250 of the 1000 steps, see section 12
rng = torch.Generator().manual_seed(0)
untrained = quick.sample(find_recipe("ddpm-live").build().model, start[:8], generator=rng)
after = quick.sample(trained.model, start, generator=rng)
show_images(
    torch.cat([untrained, after]),
    columns=8,
    title="Before training, and after",
    alt="First row: noise. Two rows below: floors, skies and coloured objects.",
)

# %% [markdown]
# Watch one sample come into being. Above is $x_t$, below the network's guess of $x_0$ at that moment (Eq. 15): as long as next
# to nothing can be known, the guess is noise itself, blown up and clipped; then come a floor and a colour, at last a shape.

# %%
path = [(x, p.x_start) for x, p in quick.denoise(trained.model, start[:1], generator=rng)]
shown = [path[i] for i in (0, 60, 120, 160, 190, 215, 235, 249)]
show_images(
    torch.cat([x for x, _ in shown] + [guess for _, guess in shown]),
    columns=8,
    alt="Above, noise turning into a picture in eight stages; below, the guess of the picture at each stage.",
)

# %% [markdown]
# ## 8 How many bits is a picture?
#
# A likelihood is a number of bits: a model that gives a picture probability $p$ lets you store it in $-\log_2 p$ bits.
# Divided by the number of values (16 x 16 x 3), that is *bits per dimension*. An uncompressed picture has 8.
#
# A good likelihood matters because it is a promise to cover *all* of the data: a model that leaves out a kind of
# picture pays infinitely many bits when one comes. Looking at samples cannot show what a model leaves out.
#
# Pixels are whole numbers, and a density is not a probability. So the last term, $L_0$, integrates the normal's density over
# the bin of each pixel value. On the scale of -1 to 1 values lie $2/255$ apart (Eq. 13):
#
# $$p_\theta(x_0\mid x_1) = \prod_i \int_{\delta_-(x_0^i)}^{\delta_+(x_0^i)} \mathcal N(x;\, \mu_\theta^i(x_1, 1),\, \sigma_1^2)\,dx
# \qquad \delta_\pm(x) = x \pm \tfrac{1}{255}$$
#
# except that the bins of black and white are open: $\delta_-(-1) = -\infty$ and $\delta_+(1) = \infty$.
#
# ### Exercise: the discretised normal
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


# %% exercise: the discretised normal
@exercise("ddpm.discretised_nll")
def discretized_nll(x, mean, log_scale):
    """Eq. 13 in nats.  x: pixel values k / 127.5 - 1; log_scale: log of the standard deviation; all of one shape"""
    # SOLUTION
    above = torch.special.ndtr((x + 1 / 255 - mean) / log_scale.exp())
    below = torch.special.ndtr((x - 1 / 255 - mean) / log_scale.exp())
    above = torch.where(x > 0.999, 1.0, above)
    below = torch.where(x < -0.999, 0.0, below)
    return -(above - below).clamp(min=1e-12).log()
    # END


# %%
values = torch.arange(256) / 127.5 - 1
mass = torch.exp(-discretized_nll(values, torch.full((256,), 0.97), torch.full((256,), -3.0)))
print(
    f"probabilities of the 256 pixel values add up to {mass.sum():.6f}; white alone has {mass[-1]:.3f}"
)

# %% [markdown]
# All terms of Eq. 5 are in place. The long-trained models below were evaluated with them on test pictures, one
# network call for each of the $T$ terms. They share data, seed, number of steps and
# network, except that `simple` has a fixed variance ($\beta_t$) and so half as many output channels; `vlb` draws $t$ by
# importance (section 11).

# %%
names = [f"ddpm-16-{s}-{o}" for s in ("linear", "cosine") for o in ("simple", "hybrid", "vlb")]
runs = {name.removeprefix("ddpm-16-"): results(name) for name in names}
for name, run in runs.items():
    m, made = run["metrics"], run["provenance"]
    cost = f"{made['steps']:,} steps, {made['seconds'] / 60:.0f} min on {made['device']}"
    print(f"{name:14s} {cost}: {m['bits_per_dim']:.3f} ± {m['bits_per_dim_error']:.3f} bits/dim")

# %% [markdown]
# Read the bound as a message, and the plots from right to left. A sender transmits $x_T$, then what is needed to get from $x_T$ to $x_{T-1}$, and so on.
# The *rate* is what has been sent when the receiver holds $x_t$; the *distortion* is how far the receiver's best guess of
# the picture is off, on the scale of 0 to 255.
#
# **Predict first:** at what $t$ has the receiver got half of the rate?


# %%
def where_the_bits_go(t, run):
    rate, distortion = (torch.tensor(runs[run]["details"][key]) for key in ("rate", "distortion"))
    title = f"at t = {t}: {rate[t]:.3f} bits/dim sent, guess off by {distortion[t]:.1f} of 255"
    fig, (left, right) = room.figure(title, "t", columns=2, height=2.6)
    left.plot(rate), right.plot(distortion, color="#E69F00")
    left.set(ylabel="rate, bits/dim"), right.set(ylabel="distortion (RMSE)")
    left.plot(t, rate[t], "o", color="#000000"), right.plot(t, distortion[t], "o", color="#000000")
    return fig


explore(where_the_bits_go, t=slider(0, T - 1, 100, label="step t"), run=list(runs))

# %%
example = runs["linear-simple"]
terms = torch.tensor(example["details"]["terms"])
share = terms[1:101].sum() / terms[1:].sum()
print(
    f"linear-simple: {terms[0]:.2f} bits/dim for L_0, {terms[1:].sum():.2f} for all other terms;"
    f" {share:.0%} of those in the 100 steps nearest the picture"
)
half = int((torch.tensor(example["details"]["rate"]) > terms[1:].sum() / 2).sum())
print(f"half of the rate has been sent when the receiver holds x_t at t = {half}")

# %% [markdown]
# The rate leaves out $L_0$, the last message. DDPM's Table 4 shows the same on CIFAR-10: of its rate, over 93% belongs to the
# last hundred steps back. Those bits describe detail that no eye can see.

# %% [markdown]
# ## 9 Why the likelihood was poor: the variance
#
# DDPM had excellent samples and a likelihood of 3.75 bits per dimension on CIFAR-10, when autoregressive models were
# below 3. Nichol and Dhariwal ask why. Their first suspect is the variance $\sigma_t^2$, which DDPM fixes at
# $\beta_t$ or $\tilde\beta_t$, with similar results for both. $\beta_t$ is the right variance if the data are
# themselves $\mathcal N(0, I)$, $\tilde\beta_t$ if they are a single point: an upper and a lower bound for real data.

# %%
ratio = ddpm.posterior_variance(betas) / betas
show_lines(
    range(1, T + 1),
    {"T = 1000": ratio},
    "How far apart are the two choices of the variance?",
    "t",
    "beta-tilde / beta",
    xscale="log",
    height=2.4,
    alt="The ratio starts at zero, is 0.85 at step 10 and practically 1 from step 100 on.",
)

# %% [markdown]
# The two differ only near $t = 0$. That is why samples do not care. But section 8 showed that the bits are spent near
# $t = 0$. So the likelihood cares very much.
#
# The remedy is to let the network say, for every value, where between the two it wants to be. The sensible range is narrow,
# so a network that predicted the variance itself would easily miss it. Instead it predicts a position in the range, on a
# logarithmic scale (Improved DDPM, its Eq. 15):
#
# $$\Sigma_\theta(x_t, t) = \exp\big(v\log\beta_t + (1-v)\log\tilde\beta_t\big)$$
#
# The output of the network gets twice as many channels: the noise, then the position. Its last layer starts at zero, so the
# code reads an output $v$ as the share $(v + 1) / 2$: 0 becomes the middle, -1 becomes $\tilde\beta$ and 1 becomes $\beta$. Nothing
# confines it to that range.
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
# <code>share * betas.log()[t] + (1 - share) * ddpm.posterior_log_variance(betas)[t]</code>, both tables with axes added.
# </details>


# %% exercise: the learned variance
@exercise("ddpm.learned_range_variance")
def learned_range_variance(v, t, betas):
    """Eq. 15: log variance (b ...) for the network's v (b ...), at steps t (b,).  betas: (T,)"""
    # SOLUTION
    shape = (-1, *[1] * (v.ndim - 1))
    large = betas.log()[t].to(v).reshape(shape)
    small = ddpm.posterior_log_variance(betas)[t].to(v).reshape(shape)
    share = (v + 1) / 2
    return share * large + (1 - share) * small
    # END


# %% [markdown]
# $L_\text{simple}$ says nothing about the variance, so it must be taught by the bound. The bound alone would train badly, as
# section 11 shows. The compromise is the hybrid (Eq. 16), with $\lambda = 0.001$:
#
# $$L_\text{hybrid} = L_\text{simple} + \lambda L_\text{vlb}$$
#
# and one more idea: inside $L_\text{vlb}$ the predicted noise is *detached*. The noise learns from $L_\text{simple}$ alone; the
# bound teaches the variance and nothing else.
#
# ### Exercise: the hybrid loss
#
# `improved_ddpm.vlb_term(eps, v, x_start, x_t, t, betas)` gives one term of the bound for each sample, in bits per dimension.
# $L_\text{vlb}$ is the sum of all `len(betas)` terms, so one random term times that number stands for it. `eps` is the first half of
# the output's channels, `v` the second. Return one loss per sample.
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
    """Eq. 16 for each sample, (b,).  output: (b 2c h w); x_start, x_t, noise: (b c h w); t: (b,)"""
    # SOLUTION
    eps, v = output.chunk(2, dim=1)
    simple = ((noise - eps) ** 2).flatten(1).mean(1)
    vlb = improved_ddpm.vlb_term(eps.detach(), v, x_start, x_t, t, betas)
    return simple + 0.001 * len(betas) * vlb
    # END


# %% [markdown]
# What does the network make of its freedom? The picture shows the share $(v+1)/2$ it chose, by step.

# %%
hybrid, _ = load_checkpoint("ddpm-16-cosine-hybrid")
cosine = find_recipe("ddpm-16-cosine-hybrid").diffusion
chosen_steps, chosen_shares = [1, 2, 5, 10, 20, 50, 100, 200, 400, 700, 950], []
for step in chosen_steps:
    t = torch.full((16,), step)
    x_t = cosine.q_sample(photos, t, torch.randn_like(photos))
    with torch.no_grad():
        _, v = cosine.call_network(hybrid, x_t, t).chunk(2, dim=1)
    chosen_shares.append(float((v.mean() + 1) / 2))
show_lines(
    chosen_steps,
    {"mean over pixels": chosen_shares},
    "Where between beta-tilde (0) and beta (1)?",
    "t",
    "share",
    xscale="log",
    height=2.4,
    alt="The share of beta that the network chose, against the step.",
)

# %% [markdown]
# ## 10 The schedule
#
# Look at the slider of section 2 again: under the linear schedule the last quarter of the steps is almost pure noise.
# Those steps teach little, and up to a fifth of them can be skipped with little loss in FID (their Figure 4). The cosine
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
    "How much of the picture is left",
    "t",
    "alpha-bar",
    height=2.6,
    alt="alpha-bar of the linear schedule drops early and is near 0 by step 700; the cosine falls almost linearly in the middle.",
)

# %%
steps = [0, 142, 285, 428, 571, 714, 857, 999]
strips = []
for a in (alphas_cumprod, cosine_alphas_cumprod(T)):
    strips += [q_sample(photos[3:4], torch.tensor([t]), hiss, a.float()) for t in steps]
show_images(
    torch.cat(strips),
    [f"t = {t}" for t in steps] * 2,
    columns=8,
    title="Linear above, cosine below",
    alt="The same picture at eight steps: the linear schedule is almost pure noise for the last three, the cosine for one.",
)

# %% [markdown]
# The betas that belong to Eq. 17 are $1 - \bar\alpha_t/\bar\alpha_{t-1}$, clipped at 0.999. The clip touches exactly one of them:

# %%
for n in (50, 100, 1000, 4000):
    print(
        f"T = {n:4d}: {int((cosine_betas(n) >= 0.999).sum())} beta clipped;"
        f" the last four are {[round(float(b), 4) for b in cosine_betas(n)[-4:]]}"
    )

# %% [markdown]
# ## 11 The noisy gradient
#
# Why not train on $L_\text{vlb}$ itself, if the likelihood is what we want? Because its terms differ by orders of magnitude. Draw
# $t$ evenly, and most draws contribute next to nothing while a few early steps dominate.

# %%
vlb_model, _ = load_checkpoint("ddpm-16-cosine-vlb")
many = pixels_to_float(data.images("test", 512, 16, scale="large")["pixels"])
rng = torch.Generator().manual_seed(0)
t = torch.randint(0, T, (512,), generator=rng)
with torch.no_grad():
    losses = cosine.vlb_loss(vlb_model, many, t, torch.randn(many.shape, generator=rng))
fig, ax = room.figure(
    "One loss per picture: T times its term of the bound", "t", "bits/dim", yscale="log", height=2.6
)
ax.plot(t, losses, ".", markersize=3)
show(
    fig,
    "Losses of 512 pictures against the step, on a logarithmic scale; those near step 0 are the largest.",
)

# %% [markdown]
# (If a point stands high at the far right, it is the last step, whose beta was clipped.)
#
# The cure is importance sampling: visit step $t$ with probability $p_t \propto \sqrt{\mathbb E[L_t^2]}$ and divide its term by $p_t$ (Eq. 18),
#
# $$L_\text{vlb} = \mathbb E_{t\sim p_t}\left[\frac{L_t}{p_t}\right]$$
#
# which leaves the expectation as it was and makes the weighted losses of similar size. `vlb_loss` returns $T L_t$, so in
# code the weight is $1/(T p_t)$. The losses are not known in advance, so the code keeps
# the last ten of every step. A share of 0.001 of the probability is spread evenly, so that no step is forgotten.
#
# ### Exercise: importance weights
#
# `history` is (T, k), the last k losses of every step. Return the probabilities and the weights $1/(T p_t)$, each of length
# T = `len(history)`. First normalise, then mix: a share `uniform` of the probability is spread evenly over all steps.
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
# Measure it. The *gradient noise scale* is the batch size at which noise and signal are equally strong: the larger, the
# noisier. Here for one trained network and both objectives, with every $t$ drawn evenly and by importance. The true gradient is the
# same for both ways of drawing, so the calmer of the two is used to estimate it.
#
# **Predict first:** for which of the two objectives does importance sampling help?

# %%
from functools import partial

scales, weights = {}, list(hybrid.requires_grad_(True).parameters())
for name, objective in (("L_vlb", cosine.vlb_loss), ("L_hybrid", cosine.hybrid_loss)):
    loss = partial(objective, hybrid)
    p, _ = importance_weights(metrics.step_losses(loss, many, T))
    ways = {"evenly": torch.ones(T) / T, "by importance": p}
    found = {how: metrics.objective_noise(loss, weights, many, odds) for how, odds in ways.items()}
    signal = min(found.values()).signal
    for how in ways:
        scales[name, how] = found[how].noise / signal
        print(f"{name:9s} t drawn {how:14s} gradient noise scale {scales[name, how]:12,.0f}")

# %% [markdown]
# ## 12 Fewer steps
#
# A thousand network calls per picture is slow. The trained network knows every step, so visit only some of them. What
# must stay is $\bar\alpha$: at a kept step the picture is as noisy as the network expects. The betas follow (Eq. 19): with
# $S_1 < S_2 < \dots$ the kept steps,
#
# $$\beta_{S_i} = 1 - \frac{\bar\alpha_{S_i}}{\bar\alpha_{S_{i-1}}}$$
#
# ### Exercise: respacing
#
# `kept` holds the steps to visit, in rising order. Return their betas. Before the first of them there is no noise.
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
    """Eq. 19: the betas (k,) of the chain that visits only the kept steps (k,).  betas: (T,)"""
    # SOLUTION
    a = (1 - betas).cumprod(0)[kept]
    return 1 - a / torch.cat([torch.ones_like(a[:1]), a[:-1]])
    # END


# %%
kept = improved_ddpm.strided_steps(T, 10)
print("kept steps   ", kept.tolist())
print("their betas  ", [round(float(b), 3) for b in respace(betas, kept)])

# %% [markdown]
# With a learned variance the network also knows how much noise a *long* step should leave. DDIM is another way to walk:
# it adds no noise at all (J. Song et al. 2021), so every step may be long. It visits other steps, too: evenly
# spaced from 0 (for 10 steps 0, 100, ..., 900), which leaves out the last one, where nothing of the picture is left. Try both samplers; the number in
# the title was measured on 512 samples. It is the Fréchet distance: the distance between two normals fitted to the features of
# samples and of test pictures (section 13 says which features); 0 is equal.


# %%
def fewer_steps(steps, sampler):
    curves, ddim = runs["cosine-hybrid"]["details"]["curves"], sampler == "DDIM"
    score = curves["ddim" if ddim else "ddpm"][curves["steps"].index(steps)]["frechet"]
    chain = cosine.respaced(steps, improved_ddpm.ddim_steps if ddim else improved_ddpm.strided_steps)
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    x = chain.sample(hybrid, x, eta=0.0 if ddim else None, generator=torch.Generator().manual_seed(0))
    return room.image_grid(x, columns=8, title=f"{sampler}, {steps} steps: Fréchet distance {score:.1f}")


explore(fewer_steps, steps=[10, 5, 25, 50, 100], sampler=["ancestral", "DDIM"])

# %%
curves = {}
for name in ("linear-simple", "cosine-hybrid"):
    found = runs[name]["details"]["curves"]
    curves[f"{name}, ancestral"] = [score["frechet"] for score in found["ddpm"]]
    curves[f"{name}, DDIM"] = [score["frechet"] for score in found["ddim"]]
show_lines(found["steps"], curves, "Quality against the number of steps", "steps", "Fréchet distance (less is better)",
           xscale="log", yscale="log", alt="Fréchet distance against the number of steps for two models and two samplers.")

# %% [markdown]
# In the paper, $L_\text{hybrid}$ models come near their best FID with 100 of 4000 steps, and DDIM is better below 50 (Figure 8). See
# whether our curves cross, and where: with many steps the ancestral sampler should win.

# %% [markdown]
# ## 13 A GAN beside it
#
# A generative adversarial network draws a picture in a single pass: a generator tries to fool a discriminator. The
# improved paper compares with GANs by *precision* (how many samples look like data) and *recall* (how much of the data is
# like some sample). Both are measured in the feature space of a network that knows the data: a point counts as inside a
# set when it is no farther from a member than that member's third-nearest neighbour in the set.
#
# The paper uses Inception's features. Ours are those of the world's judge, a small network that reads shape and
# colour, so the numbers can be compared with each other but not with the paper's.

# %%
gan, _ = load_checkpoint("dcgan-16")
rng = torch.Generator().manual_seed(0)
x = torch.randn(16, 3, 16, 16, generator=rng)
show_images(
    torch.cat(
        [many[:16], gan.sample(16, rng), cosine.respaced(100).sample(hybrid, x, generator=rng)]
    ),
    columns=16,
    title="Test pictures, the GAN, the diffusion model",
    alt="Three rows of pictures: the first from the test set, the second by the GAN, the third by diffusion.",
)

# %%
print(f"{'':16s}{'precision':>10s}{'recall':>10s}{'Frechet':>10s}{'recognised':>12s}")
for name, run in {"dcgan": results("dcgan-16"), **runs}.items():
    m = run["metrics"]
    print(
        f"{name:16s}{m['precision']:10.2f}{m['recall']:10.2f}{m['frechet']:10.2f}{m['recognised']:12.0%}"
    )

# %% [markdown]
# *Recognised* is the share of samples of whose shape and colour the judge is at least 90% sure. In the paper, class-conditional
# on ImageNet at 64 pixels, BigGAN-deep has precision 0.86 and recall 0.59, the large diffusion model 0.82 and 0.71: nearly as precise,
# covering more, and with the better FID (2.92 against 4.06). Compare the columns above with that.

# %% [markdown]
# ## 14 Scaling
#
# The paper trains four sizes and finds that FID falls with training compute along a power law towards a constant, while the
# likelihood improves less regularly. Three widths of our network, trained equally long, show what the miniature can show.

# %%
from torch.utils.flop_counter import FlopCounterMode


def training_flops(recipe):
    """Floating-point operations of a whole training: the backward pass costs twice the forward."""
    with FlopCounterMode(display=False) as counter:
        recipe.build().model(torch.zeros(1, 3, 16, 16), torch.zeros(1))
    return 3 * counter.get_total_flops() * recipe.batch_size * recipe.steps


scaling = [find_recipe(f"ddpm-16-width-{width}") for width in (8, 16, 24)]
compute = [training_flops(recipe) for recipe in scaling]
bits, frechet = ([results(r.name)["metrics"][key] for r in scaling] for key in ("bits_per_dim", "frechet"))

# %%
fig, (left, right) = room.figure("More compute", "training compute, FLOP", columns=2, height=2.6, xscale="log")
left.plot(compute, bits, "o-"), right.plot(compute, frechet, "o-", color="#E69F00")
left.set(ylabel="bits/dim"), right.set(ylabel="Fréchet distance", yscale="log")
left.xaxis.set_minor_formatter(""), right.xaxis.set_minor_formatter("")
show(fig, "Two panels: bits per dimension and Fréchet distance of three widths against training compute.")

# %% [markdown]
# ## 15 Scorecard
#
# First what is exact: sizes and schedules.


# %%
def count(preset):
    with torch.device("meta"):
        return sum(p.numel() for p in build(preset).parameters())


learned, fixed = "improved_ddpm/CIFAR-10", "improved_ddpm/CIFAR-10 fixed variance"
grey = torch.full((1, 3, 16, 16), 0.5)  # its mean square is 0.25
prior = float(improved_ddpm.ImprovedDiffusion(betas).prior_bits(grey))
room.scorecard(
    [
        dict(what="Parameters, DDPM on CIFAR-10", paper="35.7M", code=count("ddpm/CIFAR-10")),
        dict(
            what="Parameters, Improved DDPM on ImageNet-64",
            paper="120M",
            code=count("improved_ddpm/ImageNet-64"),
        ),
        dict(what="Parameters that a learned variance costs", code=count(learned) - count(fixed)),
        dict(what="L_T, linear schedule", paper="about 1e-5 bits/dim", code=f"{prior:.2e}"),
        dict(what="alpha-bar at the end, linear", code=f"{float(alphas_cumprod[-1]):.2e}"),
    ],
    title="Exact",
)

# %% [markdown]
# Then the likelihoods. The paper's numbers are from its Table 2 (CIFAR-10, 500,000 steps; dropout 0.1 with the linear schedule, 0.3
# with the cosine), here NLL / FID:
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
# More steps alone gain 0.36 bits, and fewer bits are not a lower FID. Ours have $T = 1000$ and no dropout. Two of our runs are compared on the
# same pictures with the same noise, and a trend counts as shown when the mean difference exceeds twice its standard error.


# %%
def fewer_bits(better, worse, paper):
    """A row: does run `better` need fewer bits than run `worse`?"""
    low, high = (torch.tensor(runs[name]["details"]["totals"]) for name in (better, worse))
    gain, error = float((high - low).mean()), float((high - low).std() / len(low) ** 0.5)
    measured = f"{low.mean():.3f} and {high.mean():.3f}, gain {gain:.3f} ± {error:.3f}"
    return dict(what=f"{better} below {worse}", paper=paper, measured=measured, shown=gain > 2 * error)


room.scorecard([
    fewer_bits("linear-hybrid", "linear-simple", "3.26 < 3.37"),
    fewer_bits("cosine-hybrid", "cosine-simple", "3.17 < 3.26"),
    fewer_bits("cosine-simple", "linear-simple", "3.26 < 3.37"),
    fewer_bits("cosine-hybrid", "linear-hybrid", "3.17 < 3.26"),
    fewer_bits("cosine-vlb", "cosine-hybrid", "2.94 < 3.17"),
    fewer_bits("cosine-vlb", "linear-vlb", "not tabulated"),
], title="Bits per dimension")

# %% [markdown]
# The last row is our own question: the paper trains on $L_\text{vlb}$ with the cosine schedule only. In the miniature the linear one
# needs fewer bits there.
#
# And the rest: rate, gradient noise, samples.

# %%
hyb, vlb, g = runs["cosine-hybrid"]["metrics"], runs["cosine-vlb"]["metrics"], results("dcgan-16")["metrics"]
slow, fast = (runs["cosine-hybrid"]["details"]["curves"][key][1]["frechet"] for key in ("ddpm", "ddim"))
(even, calm), (noise, idle) = list(scales.values())[:2], list(scales.values())[2:]
columns = ("what", "paper", "measured", "shown")
facts = [
    ("Share of the rate in the last 100 steps", "over 93%", f"{share:.0%}", share > 0.9),
    ("Gradient noise of L_vlb over L_hybrid", "orders of magnitude", f"{even / noise:.1f} times", even > 10 * noise),
    ("Importance sampling is no help for L_hybrid", "not helpful", f"{noise / idle:.1f} times less", noise < 1.5 * idle),
    ("Importance sampling calms L_vlb", "yes", f"{even / calm:.1f} times less", calm < even),
    ("Samples: vlb worse than hybrid", "FID 11.47 > 3.19", f"{vlb['frechet']:.1f}, {hyb['frechet']:.1f}",
     vlb["frechet"] > hyb["frechet"]),
    ("Few steps: DDIM better than ancestral", "below 50", f"10 steps: {fast:.1f}, {slow:.1f}", fast < slow),
    ("Recall: diffusion above the GAN", "0.71 > 0.59", f"{hyb['recall']:.2f}, {g['recall']:.2f}", hyb["recall"] > g["recall"]),
    ("Fréchet distance falls with compute", "a power law", ", ".join(f"{f:.1f}" for f in frechet),
     frechet == sorted(frechet, reverse=True)),
]
room.scorecard([dict(zip(columns, fact, strict=True)) for fact in facts], "Rate, gradients, samples")

# %% [markdown]
# The paper's models train for 200,000 to 1,500,000 steps, ours for a few thousand on pictures of 16 pixels. Where a trend is not
# shown, the miniature is too small or too briefly trained to show it, or the trend is less general than it seemed. It is
# reported either way.

# %% [markdown]
# ## 16 Think further
#
# <details><summary>Why did DDPM have good samples and a poor likelihood at the same time?</summary>
# L_simple drops the weight of Eq. 12, which is large at the first steps. So the network spends its strength on large
# structures, which decide how samples look, and neglects the imperceptible detail on which most bits are spent. The fixed
# variance is also wrong exactly there.
# </details>
#
# <details><summary>Why does the bound teach only the variance in the hybrid loss, and why is its weight so small?</summary>
# The gradient of the bound is noisy. Confined to the variance, it cannot disturb the noise prediction directly, and the small weight keeps
# the two parts from competing for the shared layers of the network.
# </details>
#
# <details><summary>If the offset s of the cosine schedule were 0, what would go wrong?</summary>
# The first betas would be so small that x_1 and x_0 differ by a fifth of one pixel value (T = 1000). Predicting noise
# that faint is hard.
# </details>
#
# <details><summary>Importance sampling makes the gradient of the bound calmer. Why does it not help the hybrid?</summary>
# L_simple averages squared errors of the noise that are of one order of magnitude at all steps. There is no imbalance to
# correct. The bound's part is small and reaches the network through the variance alone.
# </details>
#
# <details><summary>A GAN draws in one pass, diffusion in a hundred. When would you still want diffusion?</summary>
# When all of the data must be covered (recall), when a likelihood is needed, or when training must be stable: the loss is a regression, with no
# adversary.
# </details>
#
# **Read on:** Sohl-Dickstein et al. 2015 (where it began), J. Song et al. 2021 (DDIM), Y. Song et al. 2021 (score-based
# models, the same thing in continuous time), Dhariwal and Nichol 2021 (guidance by a classifier), Karras et al. 2022 (EDM, which chapter 08 uses).
#
# **What comes next:** 02_vit leaves generation for a moment, to meet the architecture that all later chapters are built from.

# %%
room.quiz("ddpm")

# %%
room.flashcards("ddpm")

# %%
room.progress()
