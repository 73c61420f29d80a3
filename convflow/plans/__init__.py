"""Plans of trainings on one's own pictures: what to train so that a time is used well."""
