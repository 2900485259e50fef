"""What joins the adversarial loss: one file per auxiliary, their settings in `config`.

lecam           D's outputs are held near what they were on average for the other kind of image
consistency     D judges an image and a shifted one alike
chain           means of D's channels are held near 0, beside CHAIN's normalisation, whose p it steers
insgen          D tells every image from all others
reconstruction  decoders draw real images from what D saw of them
guidance        a frozen classifier should name what the generator was told to make; `classifier` has the classifiers
"""
