"""Base models under an intervention: a persona, a steered feature, a LoRA."""
