"""Mutants in torch's own backwards, and who catches them: the assay, and gradcheck."""
