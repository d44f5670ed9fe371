"""Records under ``access/`` that the leader writes for agents: where controllers serve the gateway.

Pure: ``gateways`` plans the record. With IO: ``advertise`` finds the address that a controller announces as a
candidate, ``registry`` follows the candidates and writes. May not go in here: who has access, which root writes and
``gateway/`` enforces. Covered by tests/integration/gateway/test_addresses.py as well.
"""
