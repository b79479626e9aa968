"""One net judged after a little training and then after more, each time as what would be deployed."""
