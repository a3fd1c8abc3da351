"""What more than one test file uses; test files do not import each other."""
