"""The saga as handlers' signatures tell it: maps, checks, proofs."""
