"""Code for this machine's processor: operators in C++, and whole models compiled around them.

All of it is optional.  Without a C++ compiler, or on another processor, models run as torch runs
them; the node says which it is.
"""
