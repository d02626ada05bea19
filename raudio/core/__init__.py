"""What every other package relies on: errors, registries, seeding, storage, units. No torch."""
