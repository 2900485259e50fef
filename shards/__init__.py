"""Images in, tensors out: WebDataset shards read by index. Knows nothing of GANs.

packing    sources, listing     what can be packed, and the order, keys and labels of its images
           builtin              image sets that need no download
           images               any image file to uint8 pixels, by stated rules
           survey               what every image of a set becomes, decided once
           pack, series         all of it in parallel, and shard after shard, resumable
           contact_sheet        what was packed, to look at
           fonts                a font that has the letters of a label
format     index                index.json: what a packed dataset is
           samples              one image in a shard, and its entry in the offsets file
           encodings            its pixels as an array, a PNG, or the file that was packed
           verify               is it all there and unharmed
reading    dataset              random access by image number
           location, remote     a folder, or a URL fetched into a private cache
           order                which image stands at which position: pure functions
           stream               endless batches from a position
shared     errors, missing      what goes wrong, in one line
           files                written whole or not at all; where caches live
           parallel             pools of processes
"""
