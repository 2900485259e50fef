"""What the generator is fed: one file per choice, their settings in `config`.

gaussian · gamma · cauchy · gmm · nonparametric    priors, drawn
images                                             images of a neighbour dataset, with noise added
generator                                          images that a frozen run makes (a cascade)
"""
