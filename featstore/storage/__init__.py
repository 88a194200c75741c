"""The store on disk: what is kept, how it is committed, read and looked after."""
