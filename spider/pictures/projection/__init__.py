"""Finding the input by which a generator makes a given image.

targets    given images, as a generator makes them
judge      how far images are from a given one
nearest    the generator's own sample that is nearest to it
spaces     what is searched: w, w+, z, source images
search     the steps from a start to a find
tuning     the generator's weights moved about the find
folder     what is written, and what of it is done already
figure     the way of the distance
"""
