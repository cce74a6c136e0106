"""Problems with checkable answers: generated families, real word problems and dialogues, and their disjoint splits."""
