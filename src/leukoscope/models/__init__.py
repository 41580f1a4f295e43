"""The bundle contract: manifest, report, card, graph, and the engines that run it."""
