"""What joins the adversarial loss: one file per auxiliary, their settings in `config`.

lecam    D's outputs are held near what they were on average for the other kind of image
"""
