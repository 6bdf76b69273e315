"""The public names of softlabel, for scripts of your own."""
