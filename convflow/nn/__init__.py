"""Building blocks of the networks: norms, embeddings, dense and deformable layers."""
