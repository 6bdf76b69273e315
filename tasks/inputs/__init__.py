"""From texts, images, sounds and raw files to the numbers that models get."""
