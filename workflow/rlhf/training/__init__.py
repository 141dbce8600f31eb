"""What SFT, reward modelling and PPO share: data order, losses, optimizer, ranks, one loop."""
