"""The fused distances as other attack tools want to be given them: one module a tool, each importable without
that tool. Distances are kept between calls (:mod:`sapag_fast.integrations.kept`)."""
