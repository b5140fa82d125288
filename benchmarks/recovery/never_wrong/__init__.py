"""Cases made up to mislead: is anything wrong that is not announced?"""
