"""Every exercise of the course: reference, cases and misconceptions, one module per paper."""

# The modules of a topic that has several, in the order in which its notebook asks their exercises.
# Any other module is a topic of its own.
MODULES_OF = {
    "magvit": ("magvit", "magvit2"),
    "lvm": ("lvm_sentences", "lvm"),
    "svd": ("ldm", "svd"),
    "cogvideox": ("cogvideox_vae", "cogvideox"),
}
