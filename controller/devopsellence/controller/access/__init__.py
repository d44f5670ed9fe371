"""Access to and of controllers: where they serve the gateway, for agents, and the certificate of this controller.

Pure: ``gateways`` plans the record of their addresses. With IO: ``advertise`` finds the address that a controller
announces as a candidate, ``registry`` follows the candidates and writes the record, ``own_certificate`` signs and
renews. May not go in here: who has access, which root writes and ``gateway/`` enforces. Covered by
tests/integration/gateway/test_addresses.py as well.
"""
