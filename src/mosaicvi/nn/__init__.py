"""The published model in plain torch; in order: masks, blocks, encoder, decoder, losses, vae."""
