"""The commands of `adapter-service`, and what they and `train_adapt.py` show at a terminal."""
