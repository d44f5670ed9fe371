"""Commands of the section Getting started: init, dev, config, completion.

Parse, call, render; the work belongs in the packages beside ``commands``.
"""
