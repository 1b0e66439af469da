"""Any image encoder behind one contract (`contract.Encoder`), with the preprocessing that it was trained with."""
