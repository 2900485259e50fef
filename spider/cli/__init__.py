"""The command line: one file per group of commands. What a command does is a function of `spider.api`.

main       the application, and what becomes of errors
images     pack, verify
neighbors  neighbors
instances  instances
classes    classes
training   train, presets, config explain
judging    evaluate, generate, interpolate
projecting project
runs       ls, compare
weights    weights list, get, verify
story      demo, toy
studies    study
sweeps     sweep
disk       what a full or closed disk refuses, in one line
words      what is refused of a command line before its options are read
ray        the options of commands that work on Ray
output     what the commands print, and how lists are read
"""
