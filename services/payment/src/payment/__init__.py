"""Payment: charges a card once the stock is held, and gives the money back when the order is cancelled."""
