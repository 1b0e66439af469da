"""Files of tensors as plain data: nothing in them is run. What the tensors mean is the business of `backbones.checkpoints`."""
