"""Bad inputs and the sentences that refuse them, as tables: of configs, of files, of models and SAEs."""
