"""How an experiment is measured: ``protocol`` runs it in ``windows``, ``summary`` makes a ``result`` of them."""
