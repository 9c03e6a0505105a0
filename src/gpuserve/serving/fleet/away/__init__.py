"""A fleet's gateway in a CPU sandbox of its own, so that its address outlives the machine that brought it up.

There: ``gate``, the program, which ``pack`` puts into one file together with the injector and smg's wrapper. Here:
``roster`` is the file by which it learns of the workers, ``house`` how its sandbox is made and found, ``remote`` the
fleet as commands see it, ``begin`` its ``fleet up``.
"""
