"""What the Transformer computes with: attention and its kernels, dropout, the loss, a memory."""
