"""The fused distances as other attack tools want to be given them.

One module a tool, each importable without that tool. Distances are kept between calls, see
`sapag_fast.integrations.kept`; what a tool computes that no kind covers stays out of the public table.
"""
