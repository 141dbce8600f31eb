"""The commands of ``rlhf``, one module each: ``add_arguments(parser)`` and ``run(args)``."""
