"""Thousands of random cases, each to be replayed from its seed and number: is anything wrong or lost?"""
