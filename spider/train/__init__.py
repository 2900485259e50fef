"""The training loop and what it is made of.

loop       the algorithm, top to bottom
trainer    players, phases and method states as one object: one iteration, and its state
phases     what the discriminator's and the generator's steps minimise
terms      one quantity in a loss, and its reduction over the global batch
player     a module, what of it trains, its optimizer and its engine
stats      numbers on their way to metrics.jsonl, exact under resume
record     metrics.jsonl, TensorBoard, sample grids
dry_run    what a run will cost
"""
