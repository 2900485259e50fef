"""Files that anybody may have written, read within limits; and text for a terminal that anybody may have chosen.

    files        a regular file of limited size         text        bytes to text, whatever the editor saved
    yaml_data    YAML to plain data                     json_data   JSON to plain data
    typed        plain data to a known type             rows        files of one JSON object per line
    terminal     what reaches the screen                words       a word that is none of the known ones
    pickles      pickles to plain data, which run nothing

Every other package reads YAML and JSON through this one, because each of them reads files that others write, and a
limit that stands in two places is missing in a third. So it lies below all of them, and imports none of them.
"""
