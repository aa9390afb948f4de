{{ parse_records('raw', 'airports', key=['faa']) }}
