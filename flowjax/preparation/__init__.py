"""What is prepared before a training: autoencoders, and latents of many images."""
