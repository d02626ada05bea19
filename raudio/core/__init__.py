"""What every other package relies on: errors, registries, seeding, storage and units. No torch, no Ray."""
