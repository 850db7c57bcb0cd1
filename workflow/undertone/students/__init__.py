"""LoRAs and whole models trained on a dataset."""
