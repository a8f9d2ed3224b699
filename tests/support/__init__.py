"""What tests share: matrices, servers, drivers that ask the same questions through different doors."""
