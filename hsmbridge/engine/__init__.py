"""Operations on keys, and the lanes that run them."""
