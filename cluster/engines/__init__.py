"""How one player's gradients are summed over ranks and its optimizer steps: one file per way of doing it."""
