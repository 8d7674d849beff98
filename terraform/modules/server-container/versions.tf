terraform {
  # From 1.9 on, the validation of one variable may look at another.
  required_version = ">= 1.9"
}
