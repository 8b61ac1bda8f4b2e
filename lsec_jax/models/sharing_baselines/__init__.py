"""The rankers that TREEMS is compared with, one file each, on the same declared features (WSDM 2021, Sec. 4.1.2)."""
