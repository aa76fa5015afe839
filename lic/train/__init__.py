"""Training: `transforms` (jointly with the hyperprior), `entropy NAME` (on frozen latents), `export`."""
